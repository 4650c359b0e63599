"""The pages. Each live part of a page is a fragment with an address of its own, which `live.js` asks again."""

from __future__ import annotations

import datetime as dt
import uuid
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates

from core import pages, wire
from core.finding import Cancer
from registry.store import Reader, Row
from registry.web.api import Store

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)
_PAGE_LENGTH = 100
_WORDS = {
    "positive": "Positive", "indeterminate": "Indeterminate", "negative": "Negative", "not_analysed": "Not analysed",
}  # fmt: skip


def _minute(moment: dt.datetime) -> str:
    return f"{moment.astimezone(dt.timezone.utc):%Y-%m-%d %H:%M}"


def _size(count: float | None) -> str:
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


_templates = Jinja2Templates(directory=Path(str(resources.files(__package__).joinpath("templates"))))
_templates.env.filters |= {"ago": pages.ago, "moment": pages.moment, "minute": _minute, "size": _size}
_templates.env.globals |= {"cancers": [c.value for c in Cancer], "words": _WORDS}


def _page(request: Request, store: Reader, name: str, **values: Any) -> HTMLResponse:
    (totals,) = store.rows("totals")
    values |= {"totals": totals, "workers": store.rows("workers"), "here": request.url.path.split("/")[1]}
    return _templates.TemplateResponse(request, f"{name}.html", values)


@router.get("/")
def start() -> RedirectResponse:
    """The results are what people come for."""
    return RedirectResponse("/results", 307)


@router.get("/fragments/state")
def state(request: Request, store: Store) -> HTMLResponse:
    """The line in every page's head: is the registry itself well?"""
    return _page(request, store, "_state")


@router.get("/devices")
@router.get("/fragments/devices")
def devices(request: Request, store: Store) -> HTMLResponse:
    """All devices."""
    return _page(request, store, _fragment(request, "devices"), devices=store.devices())


@router.get("/devices/{site}/{device}")
@router.get("/fragments/device/{site}/{device}")
def device(request: Request, store: Store, site: wire.Slug, device: wire.Slug) -> HTMLResponse:
    """One device: what it is, how it is, what it said last."""
    found = _only(store.devices(site, device), f"device {site}/{device}")
    return _page(
        request, store, _fragment(request, "device"), device=found,
        events=store.rows("events", site=site, device=device, limit=50),
        results=store.results(site=site, device=device, limit=20),
        days=store.rows("days", site=site, device=device, limit=14),
    )  # fmt: skip


@router.get("/results")
@router.get("/fragments/results")
def results(
    request: Request,
    store: Store,
    site: str | None = None,
    device: str | None = None,
    study: str | None = None,
    superseded: Annotated[bool, Query()] = False,
) -> HTMLResponse:
    """The latest revision of each study, newest first."""
    chosen: dict[str, Any] = {"site": site or None, "device": device or None, "study": study or None}
    rows = store.results(**chosen, everything=superseded, limit=_PAGE_LENGTH)
    return _page(
        request, store, _fragment(request, "results"), results=rows, chosen=chosen, superseded=superseded,
        query=request.url.query, limit=_PAGE_LENGTH,
    )  # fmt: skip


@router.get("/results/{site}/{device}/{result_id}")
@router.get("/fragments/result/{site}/{device}/{result_id}")
def result(
    request: Request, store: Store, site: wire.Slug, device: wire.Slug, result_id: uuid.UUID
) -> HTMLResponse:  # fmt: skip
    """One result: seven answers with their lesions, times, and the study's other revisions."""
    where: dict[str, Any] = {"site": site, "device": device}
    found = _only(store.results(**where, result_id=result_id, everything=True), f"result {result_id}")
    payload = store.rows("result_payload", **where, result_id=result_id)[0]["payload"]
    body = wire.open_envelope(payload.encode()).body
    assert isinstance(body, wire.ResultBody)  # a row of `result` comes from nothing else
    return _page(
        request, store, _fragment(request, "result"), result=found,
        lesions={a.cancer.value: a.lesions for a in body.answers},
        series={a.cancer.value: a.series for a in body.answers if a.series},
        revisions=store.results(**where, study=found["study"], everything=True),
    )  # fmt: skip


@router.get("/trouble")
@router.get("/fragments/trouble")
def trouble(request: Request, store: Store) -> HTMLResponse:
    """Alerts and quarantine."""
    alerts, refused = store.rows("alerts", limit=_PAGE_LENGTH), store.rows("quarantine", limit=_PAGE_LENGTH)
    return _page(request, store, _fragment(request, "trouble"), alerts=alerts, quarantine=refused)


def _fragment(request: Request, name: str) -> str:
    return f"_{name}" if request.url.path.startswith("/fragments/") else name


def _only(rows: list[Row], what: str) -> Row:
    if not rows:
        raise HTTPException(404, f"no {what}")
    return rows[0]
