"""`onescan-provision`: every command of provisioning. Parsing and printing only."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from appliance import config
from appliance.identity import escrow, keys, pseudonyms
from appliance.identity.keys import IdentityFolder
from core import durable
from core.errors import ConfigError, IdentityError, OneScanError
from provisioning import preflight, site
from provisioning.install import CONFIG_NAME, Done, Installation, carry_out
from provisioning.preflight import Check

app = typer.Typer(
    name="onescan-provision",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Turn a computer beside a CT scanner into a OneScan appliance, in one visit.

**Before the visit:** `plan-template > site-plan.yaml`, fill it in, and have the central team make a token
(`onescan-registry token --site S --device D`). The plan holds no secret; the token works once, for this device.

**At the site, in order:** `check site-plan.yaml` · `apply site-plan.yaml --token-file token` · start the appliance ·
`accept`.

**Afterwards:** `escrow` gives the hospital its site key, sealed, for its safe and for its next appliance.

Every command may be repeated; `apply` goes on where it was interrupted and keeps what is done.""",
)
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)

PlanArgument = Annotated[Path, typer.Argument(help="The site plan, a YAML file.", dir_okay=False)]
StateOption = Annotated[
    Optional[Path],  # noqa: UP045 - typer evaluates this on Python 3.10 as well
    typer.Option("--state", help="State folder, instead of the plan's.", file_okay=False),
]
ConfigOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--config", "-c", envvar="ONESCAN_CONFIG", help="Settings file; default: appliance.yaml in the state."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a script instead of text for a person.")]
PhraseOption = Annotated[
    Path, typer.Option("--passphrase-file", help="File with the passphrase; '-' reads it from standard input.")
]


@app.command("plan-template")
def plan_template(
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="File to write; default: standard output. Never overwrites."),
    ] = None,
) -> None:
    """Print a site plan to fill in, with the meaning of each field beside it."""
    if out is None:
        sys.stdout.write(site.TEMPLATE)
        return
    if out.exists():
        raise ConfigError(f"{out} exists already", remedy="Name another file; a filled-in plan is never overwritten.")
    durable.write_text(out, site.TEMPLATE)
    _out.print(f"Wrote {escape(str(out))}")


@app.command()
def check(plan: PlanArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Check a plan's fields, then this machine against it. Changes nothing.

    Exit status: 0 fit (perhaps with warnings), 1 not fit.
    """
    checked = site.read_plan(plan)
    if as_json:
        _finish(preflight.inspect(checked, state), as_json)
        return
    _out.print(f"Plan for [bold]{checked.site}/{checked.device}[/]: every field is right.")
    with _err.status("Looking at this machine ..."):
        checks = preflight.inspect(checked, state)
    _finish(checks, as_json)


@app.command()
def apply(
    plan: PlanArgument,
    token_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--token-file", help="File with the enrolment token.", dir_okay=False),
    ] = None,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Read the enrolment token from standard input.")
    ] = False,
    state: StateOption = None,
    config_file: ConfigOption = None,
    site_key_escrow: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--site-key-escrow", help="Take the site key from this file; needed on a site's second appliance."
        ),
    ] = None,
    passphrase_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--passphrase-file", help="File with the passphrase of the escrow file."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Carry out a plan: key, certificate, site key, root of trust, settings.

    Idempotent: what is done is kept, so after an error or a power cut just run it again. The token is only needed
    until the certificate is there, and to renew it in its last third; it is never an argument, so that it stands in no
    shell history.
    """
    checked = site.read_plan(plan)
    folder = state or checked.state
    imported = _imported_key(checked.site, site_key_escrow, passphrase_file)
    reader = _token_reader(token_file, token_stdin)
    renew = token_stdin or token_file is not None
    installation = Installation(
        checked, folder, config_file or folder / CONFIG_NAME, reader, _now, site_key=imported, renew=renew
    )
    done = _with_progress(lambda tell: carry_out(installation, tell), quiet=as_json)
    names = pseudonyms.Pseudonyms(pseudonyms.load_site_key(installation.identity))
    values: dict[str, Any] = {
        "site": checked.site,
        "device": checked.device,
        "state": str(installation.state),
        "config": str(installation.config_file),
        "site_key_check": names.check_value(),
        "steps": dict(done),
    }
    if as_json:
        sys.stdout.write(json.dumps(values) + "\n")
        return
    _out.print(f"[green]✔[/] [bold]{checked.site}/{checked.device}[/] is provisioned in {escape(values['state'])}")
    _out.print(f"  start it    onescan-appliance run --config {escape(values['config'])}", soft_wrap=True)
    _out.print(f"  then        onescan-provision accept --config {escape(values['config'])}", soft_wrap=True)
    if dict(done)["site key"] == "made" and imported is None:
        _out.print(
            "  [yellow]site key[/]    made here. Give it to the hospital now: `onescan-provision escrow`. Without it a "
            "dead disk loses who the flagged patients are.",
            soft_wrap=True,
        )


@app.command()
def accept(config_file: ConfigOption = None, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Test a running appliance in its place: receiver, PACS, broker, model, clock, disk.

    Exit status: 0 accepted (perhaps with warnings), 1 not accepted.
    """
    from provisioning import acceptance

    settings = config.load(_settings_file(config_file, state))
    if as_json:
        _finish(acceptance.accept(settings, _now()), as_json)
        return
    with _err.status("Testing ..."):
        checks = acceptance.accept(settings, _now())
    _finish(checks, as_json)


@app.command()
def show(config_file: ConfigOption = None, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Show what this box is: names, certificate, authorities, settings. Shows no secret."""
    file = _settings_file(config_file, state)
    settings = config.load(file)
    folder = IdentityFolder(settings.identity)
    certificate, ca = keys.load_certificate(folder.certificate), keys.load_certificate(folder.ca)
    names = pseudonyms.Pseudonyms(pseudonyms.load_site_key(folder))
    values: dict[str, Any] = {
        "site": settings.site,
        "device": settings.device,
        "certificate": keys.subject_name(certificate),
        "certificate_sha256": keys.fingerprint(certificate),
        "expires": f"{certificate.not_valid_after_utc:%Y-%m-%d}",
        "days_left": round(keys.days_left(certificate, _now()), 1),
        "registry_ca_sha256": keys.fingerprint(ca),
        "site_key_check": names.check_value(),
        "broker": f"{settings.registry.mqtt_host}:{settings.registry.mqtt_port}",
        "model_repository": settings.registry.tuf_url,
        "receiver": f"{settings.receiver.ae_title} at {settings.receiver.host}:{settings.receiver.port}",
        "settings": str(file),
        "state": str(settings.state),
    }
    if as_json:
        sys.stdout.write(json.dumps(values) + "\n")
        return
    table = Table(show_header=False, box=None)
    for name, value in values.items():
        table.add_row(f"[dim]{name.replace('_', ' ')}[/]", escape(str(value)))
    _out.print(table)


@app.command("escrow")
def escrow_command(
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, for the hospital's safe. Never overwrites.")],
    passphrase_file: PhraseOption,
    config_file: ConfigOption = None,
    state: StateOption = None,
) -> None:
    """Seal the site key with a passphrase: for the hospital's safe, and for its next appliance.

    File and passphrase together tell who the flagged patients are. Keep them apart, in the hospital, and give neither
    to the registry.
    """
    settings = config.load(_settings_file(config_file, state))
    if out.exists():
        raise IdentityError(f"{out} exists already", remedy="Name another file; an escrow file is never overwritten.")
    key = pseudonyms.load_site_key(IdentityFolder(settings.identity))
    durable.write_bytes(out, escrow.seal(key, settings.site, _secret(passphrase_file)), keys.KEY_MODE)
    check_value = pseudonyms.Pseudonyms(key).check_value()
    _out.print(f"Sealed the site key of [bold]{settings.site}[/] (check {check_value}) into {escape(str(out))}")


def _settings_file(config_file: Path | None, state: Path | None) -> Path:
    if config_file is not None:
        return config_file
    return (state or Path("/var/lib/onescan")) / CONFIG_NAME


def _token_reader(file: Path | None, from_stdin: bool) -> Callable[[], str]:
    """Reads the token when a step asks for it, and not before."""

    def read() -> str:
        if from_stdin:
            return sys.stdin.read().strip()
        if file is not None:
            return _secret(file)
        raise ConfigError(
            "this box has no certificate yet, so an enrolment token is needed",
            remedy="Add --token-file FILE, or --token-stdin; the central team makes one with `onescan-registry token`.",
        )

    return read


def _imported_key(owner: str, file: Path | None, passphrase_file: Path | None) -> bytes | None:
    if file is None:
        return None
    if passphrase_file is None:
        raise ConfigError("an escrow file needs its passphrase", remedy="Add --passphrase-file FILE.")
    try:
        return escrow.unseal(file.read_bytes(), owner, _secret(passphrase_file))
    except OSError as error:
        raise ConfigError(f"can't read {file}: {error.strerror}") from error


def _secret(file: Path) -> str:
    try:
        return (sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't read {file}: {error}") from error


_MARKS = {"made": "[green]made[/]", "kept": "[dim]kept[/]", "changed": "[yellow]changed[/]"}


def _with_progress(
    work: Callable[[Callable[[str, Done | None], None]], list[tuple[str, Done]]], quiet: bool
) -> list[tuple[str, Done]]:
    if quiet:
        return work(lambda title, done: None)
    columns = (SpinnerColumn(finished_text="[green]✔[/]"), TextColumn("{task.description}"))
    with Progress(*columns, console=_err, transient=False) as progress:
        tasks: dict[str, Any] = {}

        def tell(title: str, done: Done | None) -> None:
            if done is None:
                tasks[title] = progress.add_task(title, total=1)
            else:
                progress.update(tasks[title], completed=1, description=f"{title:<14}{_MARKS[done]}")

        return work(tell)


_STATUS = {"ok": "[green]✔ ok[/]", "warn": "[yellow]! warn[/]", "fail": "[red]✘ fail[/]"}


def _finish(checks: tuple[Check, ...], as_json: bool) -> None:
    """Print the checks; exit with 1 if one failed."""
    verdict = preflight.worst(checks)
    if as_json:
        sys.stdout.write(json.dumps({"verdict": verdict, "checks": [asdict(c) for c in checks]}) + "\n")
    else:
        table = Table("", "what", "found", "what to do", box=None)
        for one in checks:
            table.add_row(_STATUS[one.status], one.name, escape(one.found), escape(one.remedy))
        _out.print(table)
    if verdict == "fail":
        raise typer.Exit(1)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


def main() -> None:
    """The console command: errors of ours are said with their remedy, and without a traceback."""
    try:
        app()
    except OneScanError as error:
        _err.print(f"[red]{type(error).__name__}[/]: {escape(str(error))}", soft_wrap=True)
        _err.print(escape(error.remedy()), soft_wrap=True, style="dim")
        sys.exit(1)


if __name__ == "__main__":
    main()
