"""JSON for programs: /api/v1/..., /healthz, and /metrics in Prometheus's text format."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from core.finding import Cancer
from registry.store import Reader, Row, StoreUnavailable

router = APIRouter()


def store_of(request: Request) -> Reader:
    """The application's reader."""
    store = request.app.state.store
    assert isinstance(store, Reader)
    return store


Store = Annotated[Reader, Depends(store_of)]


@router.get("/api/v1/devices")
def devices(store: Store, site: str | None = None, device: str | None = None) -> list[Row]:
    """Devices with presence, bundle, latest telemetry."""
    return store.devices(site, device)


@router.get("/api/v1/devices/{site}/{device}/days")
def days(store: Store, site: str, device: str, limit: Annotated[int, Query(ge=1, le=400)] = 31) -> list[Row]:
    """Studies performed, received, analysed, delivered, reviewed and missing on each day, as the device said last."""
    return store.rows("days", site=site, device=device, limit=limit)


@router.get("/api/v1/results")
def results(
    store: Store,
    site: str | None = None,
    device: str | None = None,
    study: Annotated[str | None, Query(description="pseudonym")] = None,
    since: Annotated[dt.datetime | None, Query(description="received at or after; UTC if no zone is given")] = None,
    superseded: Annotated[bool, Query(description="also revisions that are no longer current")] = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> list[dict[str, Any]]:
    """Results, newest first, with seven answers each in the standard order."""
    moment = since.replace(tzinfo=since.tzinfo or dt.timezone.utc) if since else None
    rows = store.results(
        site=site, device=device, study=study, since=moment, everything=superseded, limit=limit
    )  # fmt: skip
    return [{**row, "answers": [row["answers"][c.value] for c in Cancer if c.value in row["answers"]]} for row in rows]


@router.get("/healthz")
def healthz(store: Store) -> Response:
    """200 while the database answers; says whether an ingest worker is alive."""
    try:
        workers = store.rows("workers")
    except StoreUnavailable as error:
        return JSONResponse({"database": False, "reason": str(error)}, 503)
    return JSONResponse({"database": True, "ingest": any(w["healthy"] for w in workers)})


@router.get("/metrics")
def metrics(store: Store) -> PlainTextResponse:
    """Counters and gauges of the registry and its devices."""
    (totals,) = store.rows("totals")
    lines = [
        *_metric("onescan_devices", "gauge", "Enrolled devices.", {"": totals["devices"]}),
        *_metric("onescan_devices_online", "gauge", "Devices online.", {"": totals["online"]}),
        *_metric("onescan_results_total", "counter", "Results, every revision.", {"": totals["results"]}),
        *_metric(
            "onescan_messages_acknowledged_total", "counter", "Messages acknowledged.", {"": totals["acknowledged"]}
        ),
        *_metric("onescan_quarantined_total", "counter", "Messages refused.", {"": totals["quarantined"]}),
        *_metric("onescan_alerts_open", "gauge", "Alerts that nobody has closed.", {"": totals["alerts"]}),
    ]
    workers = {f'{{worker="{w["worker"]}"}}': int(w["healthy"]) for w in store.rows("workers")}
    lines += _metric("onescan_ingest_worker_healthy", "gauge", "1: connected and heard within 30 s.", workers)
    rows = {f'{{site="{r["site"]}",device="{r["device"]}"}}': r for r in store.devices()}
    for name, column, meaning in _DEVICE_GAUGES:
        values = {labels: float(row[column]) for labels, row in rows.items() if row[column] is not None}
        lines += _metric(f"onescan_device_{name}", "gauge", meaning, values)
    seen = {labels: row["last_seen"].timestamp() for labels, row in rows.items() if row["last_seen"]}
    lines += _metric("onescan_device_last_seen_seconds", "gauge", "Unix time of the last word from a device.", seen)
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


_DEVICE_GAUGES = (
    ("online", "online", "1: online."),
    ("waiting_messages", "waiting", "Messages held above a gap in their stream."),
    ("outbox_registry", "outbox_registry", "Messages that the device has yet to deliver here."),
    ("outbox_pacs", "outbox_pacs", "Objects that the device has yet to deliver to its PACS."),
    ("disk_free_bytes", "disk_free_bytes", "Free space."),
    ("temperature_celsius", "temperature_c", "Temperature."),
)


def _metric(name: str, kind: str, meaning: str, values: dict[str, Any]) -> list[str]:
    """One metric; labels are slugs, which need no escaping."""
    samples = [f"{name}{labels} {value}" for labels, value in values.items()]
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}", *samples]
