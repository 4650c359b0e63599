"""`onescan-registry`: every command of the registry. Parsing and printing only."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core import durable
from core.errors import EnrolmentRefused, OneScanError
from core.finding import Cancer
from registry.clock import utc_now
from registry.config import RegistryConfig, read_config
from registry.logs import log_to_stderr

app = typer.Typer(
    name="onescan-registry",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""The central registry of OneScan: takes the devices' results, keeps them, shows them, enrols devices.

**A new registry, in order:** `init-ca` · `server-cert` · `worker-cert` · `migrate` · `acl` · start Mosquitto · `run`.

**A new device:** `token --site S --device D`, and type the token into `onescan-provision` at the device.

All commands read one YAML file: `--config`, or the variable `ONESCAN_REGISTRY_CONFIG`.""",
)
_out = Console(width=None if sys.stdout.isatty() else 160)  # piped tables are read by people too
_err = Console(stderr=True)
_KEEP_ALIVE_S = 75
"""Longer than proxies keep an idle connection to us (60 s, usually): one that we end first costs them a request."""

ConfigOption = Annotated[
    Optional[Path],  # noqa: UP045 - typer evaluates this on Python 3.10 as well
    typer.Option("--config", "-c", envvar="ONESCAN_REGISTRY_CONFIG", help="The registry's YAML file.", dir_okay=False),
]
DatabaseOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--database", envvar="ONESCAN_REGISTRY_DATABASE", help="libpq connection string; wins over the file."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a script instead of text for a person.")]
SiteOption = Annotated[str, typer.Option("--site", help="The site's name, as in the site plan.")]
DeviceOption = Annotated[str, typer.Option("--device", help="The device's name, as in the site plan.")]


@app.callback()
def _settings(context: typer.Context, config: ConfigOption = None, database: DatabaseOption = None) -> None:
    settings = read_config(config) if config else RegistryConfig()
    if database:
        settings = settings.model_copy(update={"database": database})
    context.obj = (settings, config)


def _of(context: typer.Context) -> RegistryConfig:
    settings = context.obj[0]
    assert isinstance(settings, RegistryConfig)
    return settings


def _say(as_json: bool, values: dict[str, Any], text: str) -> None:
    if as_json:
        sys.stdout.write(json.dumps(values, default=str) + "\n")
    else:
        _out.print(text, highlight=False, soft_wrap=True)


# ---------------------------------------------------------------------------------------------------- setting up


@app.command()
def migrate(context: typer.Context, as_json: JsonOption = False) -> None:
    """Bring the database to this release's schema. Safe to repeat; several registries may do it at once."""
    from registry import migrations
    from registry.store import connect, settle_epoch, translated

    with connect(_of(context).database, "onescan-migrate") as connection:
        with translated():
            applied = migrations.apply(connection)
        epoch = settle_epoch(connection)
    text = f"Applied {', '.join(applied)}." if applied else "The schema is up to date."
    _say(as_json, {"applied": applied, "registry_epoch": epoch}, text)


@app.command("init-ca")
def init_ca(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="Common name of the root certificate.")] = "OneScan registry CA",
    as_json: JsonOption = False,
) -> None:
    """Make the registry's certificate authority. Its fingerprint goes into every site plan: devices trust nothing else.

    Back up the folder encrypted, off this machine: who has `ca.key` can make devices.
    """
    from registry import authority

    folder = _of(context).authority.folder
    made = authority.create(folder, name, utc_now())
    values = {"certificate": str(folder / "ca.crt"), "fingerprint_sha256": made.fingerprint}
    _say(as_json, values, f"Made {folder / 'ca.crt'}\nSHA-256 fingerprint for site plans: {made.fingerprint}")


@app.command("server-cert")
def server_cert(
    context: typer.Context,
    names: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            help="Host names and addresses under which devices reach it; 127.0.0.1 and localhost are added."
        ),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Path without suffix: writes .crt and .key. Default: the enrolment server's files."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a certificate for a server: the enrolment server's (default) or the broker's (`--out`)."""
    from registry import authority

    settings = _of(context)
    certificate = out.with_suffix(".crt") if out else settings.enrolment.certificate
    key = out.with_suffix(".key") if out else settings.enrolment.key
    root = authority.open_authority(settings.authority.folder)
    durable.make_folder(certificate.parent)
    everything = list(dict.fromkeys([*(names or []), "localhost", "127.0.0.1"]))
    issued = root.server(everything, authority.new_key(key).public_key(), utc_now())
    durable.write_bytes(certificate, issued.pem, 0o644)
    values = {"certificate": str(certificate), "key": str(key), "names": everything}
    _say(as_json, values, f"Made {certificate} for {', '.join(everything)}")


@app.command("worker-cert")
def worker_cert(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The worker's name; its certificate says registry.<name>.")] = "ingest",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Path without suffix: writes .crt and .key. Default: beside the authority."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a client certificate for one of the registry's own MQTT workers."""
    from registry import authority

    folder = _of(context).authority.folder
    base = out or folder / f"worker-{name}"
    certificate, key = base.with_suffix(".crt"), base.with_suffix(".key")
    root = authority.open_authority(folder)
    durable.make_folder(certificate.parent)
    issued = root.worker(name, authority.new_key(key).public_key(), utc_now())
    durable.write_bytes(certificate, issued.pem, 0o644)
    _say(as_json, {"certificate": str(certificate), "key": str(key)}, f"Made {certificate}")


@app.command()
def token(
    context: typer.Context,
    site: SiteOption,
    device: DeviceOption,
    hours: Annotated[float, typer.Option(min=0.01, max=720, help="How long it can be used.")] = 24.0,
    as_json: JsonOption = False,
) -> None:
    """Make the token with which one device enrols, once. It is shown now and never again."""
    from registry import tokens
    from registry.store import connect

    now, life = utc_now(), dt.timedelta(hours=hours)
    with connect(_of(context).database, "onescan-token") as connection:
        made = tokens.make_token(connection, site, device, now, life)
    values = {"site": site, "device": device, "token": made, "expires_at": (now + life).isoformat()}
    _say(as_json, values, made)
    if not as_json:
        _err.print(f"For {site}/{device}, once, until {now + life:%Y-%m-%d %H:%M} UTC.", highlight=False)


@app.command()
def acl(
    context: typer.Context,
    out: Annotated[Optional[Path], typer.Option(help="The file; default from the configuration.")] = None,  # noqa: UP045
    broker_pid_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Mosquitto's pid_file: it gets SIGHUP and reads the list."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write Mosquitto's access list from the device table. Enrolment does this by itself; the first time is yours."""
    from registry import acl as access
    from registry.store import connect

    settings = _of(context)
    changes = {"file": out or settings.acl.file, "broker_pid_file": broker_pid_file or settings.acl.broker_pid_file}
    chosen = settings.acl.model_copy(update=changes)
    if chosen.file is None:
        raise typer.BadParameter("name the file: --out, or acl.file in the configuration")
    with connect(settings.database, "onescan-acl") as connection:
        count = access.refresh(connection, chosen)
    _say(as_json, {"file": str(chosen.file), "devices": count}, f"Wrote {chosen.file}: {count} devices.")


@app.command()
def epoch(
    context: typer.Context,
    renew: Annotated[bool, typer.Option("--renew", help="Draw a new epoch: every device sends again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show which database this is to the devices. Renew it after restoring a disk snapshot (dumps are noticed)."""
    from registry.store import connect, renew_epoch, settle_epoch

    with connect(_of(context).database, "onescan-epoch") as connection:
        value = renew_epoch(connection) if renew else settle_epoch(connection)
    _say(as_json, {"registry_epoch": value}, value)


# --------------------------------------------------------------------------------------------------------- roles


@app.command()
def ingest(context: typer.Context) -> None:
    """Role: take messages from the broker into the database and acknowledge them. Needs `worker-cert` and `migrate`."""
    from registry.ingest import IngestWorker
    from registry.supervisor import stop_on_signals

    log_to_stderr()
    IngestWorker(_of(context)).run(stop_on_signals())


@app.command()
def serve(context: typer.Context) -> None:
    """Role: the pages (`/`), the API (`/api/v1/`), `/metrics`, and the over-the-air repository (`/tuf/`)."""
    import uvicorn

    from registry.web.app import web_app

    log_to_stderr()
    settings = _of(context)
    uvicorn.run(
        web_app(settings), host=settings.web.host, port=settings.web.port, log_config=None, server_header=False,
        timeout_graceful_shutdown=5, timeout_keep_alive=_KEEP_ALIVE_S,
    )  # fmt: skip


@app.command("enrol-serve")
def enrol_serve(context: typer.Context) -> None:
    """Role: the enrolment server (EST, RFC 7030, HTTPS). Needs `init-ca`, `server-cert` and `migrate`."""
    import uvicorn

    from registry.authority import open_authority
    from registry.enrolment import enrolment_app

    log_to_stderr()
    settings = _of(context)
    application = enrolment_app(settings, open_authority(settings.authority.folder))
    uvicorn.run(
        application, host=settings.enrolment.host, port=settings.enrolment.port, log_config=None, server_header=False,
        ssl_certfile=str(settings.enrolment.certificate), ssl_keyfile=str(settings.enrolment.key),
        timeout_graceful_shutdown=5,
    )  # fmt: skip


@app.command()
def run(
    context: typer.Context,
    roles: Annotated[str, typer.Option(help="Which, with commas between.")] = "ingest,serve,enrol-serve",
) -> None:
    """All roles under one supervisor; SIGTERM stops them in order, without losing a message."""
    from registry.supervisor import stop_on_signals, supervise

    log_to_stderr()
    settings, config = context.obj
    if settings.database != RegistryConfig().database:
        os.environ["ONESCAN_REGISTRY_DATABASE"] = settings.database  # not in argv, where everybody could read it
    base = [sys.executable, "-m", "registry.cli", *(["--config", str(config)] if config else [])]
    supervise({role: [*base, role] for role in roles.split(",")}, stop_on_signals())


# ------------------------------------------------------------------------------------------------------- looking


@contextlib.contextmanager
def _reader(context: typer.Context) -> Iterator[Any]:
    from registry.store import reader

    with reader(_of(context).database) as opened:
        yield opened


@app.command()
def devices(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the devices: who is online, what they run."""
    with _reader(context) as store:
        rows = store.devices()
    if as_json:
        sys.stdout.write(json.dumps(rows, default=str) + "\n")
        return
    table = Table("site", "device", "online", "last seen (UTC)", "software", "bundle", "waiting")
    for row in rows:
        seen = f"{row['last_seen']:%Y-%m-%d %H:%M:%S}" if row["last_seen"] else "never"
        bundle = f"{row['bundle_name']} {row['bundle_version']}" if row["bundle_name"] else "–"
        online = "[green]yes[/]" if row["online"] else "[dim]no[/]"
        table.add_row(row["site"], row["device"], online, seen, row["software"], bundle, str(row["waiting"]))
    _out.print(table)


@app.command()
def results(
    context: typer.Context,
    site: Annotated[Optional[str], typer.Option(help="Only this site.")] = None,  # noqa: UP045
    device: Annotated[Optional[str], typer.Option(help="Only this device.")] = None,  # noqa: UP045
    study: Annotated[Optional[str], typer.Option(help="Only this study (pseudonym).")] = None,  # noqa: UP045
    since: Annotated[Optional[dt.datetime], typer.Option(help="Only those received since then, UTC.")] = None,  # noqa: UP045
    everything: Annotated[bool, typer.Option("--all", help="Superseded revisions as well.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List results, newest first: one answer per cancer."""
    since_utc = since.replace(tzinfo=since.tzinfo or dt.timezone.utc) if since else None
    with _reader(context) as store:
        rows = store.results(
            site=site, device=device, study=study, since=since_utc, everything=everything, limit=limit
        )  # fmt: skip
    if as_json:
        sys.stdout.write(json.dumps(rows, default=str) + "\n")
        return
    table = Table("received (UTC)", "device", "study", "rev.", *(c.value for c in Cancer))
    for row in rows:
        verdicts = [_VERDICTS[row["answers"][c.value]["verdict"]] for c in Cancer]
        when = f"{row['received_at']:%Y-%m-%d %H:%M}"
        table.add_row(when, f"{row['site']}/{row['device']}", row["study"][:8], str(row["revision"]), *verdicts)
    _out.print(table)


_VERDICTS = {
    "positive": "[bold]▲ positive[/]",
    "indeterminate": "◆ indeterminate",
    "negative": "– negative",
    "not_analysed": "[dim]· not analysed[/]",
}


@app.command()
def alerts(
    context: typer.Context,
    clear: Annotated[Optional[int], typer.Option(help="Close the alert with this number.")] = None,  # noqa: UP045
    as_json: JsonOption = False,
) -> None:
    """List what a person must look at, or close one of them."""
    with _reader(context) as store:
        if clear is not None and not store.execute("alert_clear", id=clear):
            raise typer.BadParameter(f"no open alert has the number {clear}")
        rows = store.rows("alerts", limit=500)
    if as_json:
        sys.stdout.write(json.dumps(rows, default=str) + "\n")
        return
    table = Table("no.", "what", "device", "detail", "times", "last (UTC)")
    for row in rows:
        where = f"{row['site']}/{row['device']}"
        table.add_row(
            str(row["id"]), row["kind"], where, row["detail"], str(row["times"]), f"{row['last_at']:%Y-%m-%d %H:%M}"
        )
    _out.print(table)


@app.command()
def desired(
    context: typer.Context,
    site: SiteOption,
    device: DeviceOption,
    bundle: Annotated[str, typer.Option(help="Name of the bundle.")],
    version: Annotated[str, typer.Option(help="Its version.")],
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the ingest worker to publish it.")] = 15.0,
    as_json: JsonOption = False,
) -> None:
    """Say which bundle a device should run. Recorded here; the ingest worker publishes it, retained, for the device."""
    from core.wire import DesiredBody

    wish = DesiredBody(issued_at=utc_now(), bundle=bundle, version=version)
    with _reader(context) as store:
        if not store.devices(site, device):
            raise EnrolmentRefused(f"{site}/{device} is not enrolled", remedy="`onescan-registry devices` lists them.")
        store.execute("desired_record", site=site, device=device, **wish.model_dump())
        deadline = time.monotonic() + wait
        while not (published := _is_published(store, site, device)) and time.monotonic() < deadline:
            time.sleep(0.2)
    values = {"site": site, "device": device, "bundle": bundle, "version": version, "published": published}
    fate = "published" if published else "recorded; it goes out when an ingest worker runs"
    _say(as_json, values, f"{site}/{device} should run {bundle} {version}: {fate}.")


def _is_published(store: Any, site: str, device: str) -> bool:
    rows = store.rows("desired_of", site=site, device=device)
    return bool(rows and rows[0]["published_at"])


def main() -> None:
    """The console command: errors of ours are said with their remedy, and without a traceback."""
    try:
        app()
    except OneScanError as error:
        _err.print(f"[red]{type(error).__name__}[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
        _err.print(escape(error.remedy()), highlight=False, soft_wrap=True, style="dim")
        sys.exit(1)


if __name__ == "__main__":
    main()
