"""`onescan-appliance`: run the box, and ask it how it is."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from appliance import config as configuration
from core.errors import OneScanError
from core.finding import Cancer

DEFAULT_CONFIG = Path("/etc/onescan/appliance.yaml")
ROLES = ("receiver", "analyser", "courier", "updater", "console")

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="The OneScan appliance: receives CT studies, looks for seven cancers, answers into the PACS and the registry."
    "\n\nThe configuration is written by `onescan-provision apply`. Start with `onescan-appliance check`.",
)
ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="ONESCAN_CONFIG", help="Configuration file.", show_default=True),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
_KIND_NOT_TAKEN = 3  # "abstract syntax not supported", PS3.8 table 9-18
_KINDS_SHOWN = 3
_screen = Console(width=None if sys.stdout.isatty() else 160)  # piped tables are read by people too


@app.command()
def run(
    role: Annotated[
        Optional[str],  # noqa: UP045 -- typer reads this at run time, on Python 3.10 too
        typer.Argument(help=f"One of {', '.join(ROLES)}. Without it: all, under one supervisor."),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Run one role, or all of them, until SIGTERM.

    Logs go to standard error, one JSON object a line; patients are named by pseudonym only.

    Examples: `onescan-appliance run` (container, laptop), `onescan-appliance run receiver` (systemd does this).
    """
    if role is not None and role not in ROLES:
        raise typer.BadParameter(f"there is no role {role}; the roles are {', '.join(ROLES)}")
    configuration.load(config)  # what is wrong in it is said here, to whoever started this
    os.umask(0o007)
    if role is None:
        _run_all(config)
    else:
        _run_role(role, config)


def _run_all(config: Path) -> None:
    from appliance import log, service
    from appliance.supervisor import Supervisor

    log.set_up("supervisor")
    Supervisor(ROLES, lambda role: _run_role(role, config), service.preload).run()


def _run_role(role: str, config: Path) -> None:
    """The edge of a role's process: whatever ends it is one line in the log, with what to do about it."""
    from appliance import log, service

    log.set_up(role)
    try:
        service.run(role, configuration.load(config))
    except Exception as error:
        logging.getLogger(__name__).critical("the role ends", exc_info=error)
        sys.exit(1)


@app.command()
def check(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Read the configuration and say what it means. Changes nothing."""
    settings = configuration.load(config)
    if as_json:
        typer.echo(settings.model_dump_json(indent=2))
        return
    table = Table(title=f"{settings.site} / {settings.device}", show_header=False)
    receiver = settings.receiver
    table.add_row("receives as", f"{receiver.ae_title} on {receiver.host}:{receiver.port}")
    table.add_row("from", ", ".join(receiver.calling_ae_titles) or "any sender")
    for pacs in settings.pacs:
        table.add_row("answers to", f"{pacs.ae_title} at {pacs.host}:{pacs.port} ({pacs.name})")
    if not settings.pacs:
        table.add_row("answers to", "no PACS: result objects stay on this box")
    table.add_row(
        "registry", f"{settings.registry.mqtt_host}:{settings.registry.mqtt_port}, {settings.registry.tuf_url}"
    )
    table.add_row(
        "modes", ", ".join(f"{c.value} {m.value}" for c, m in settings.analyser.modes.items()) or "all silent"
    )
    table.add_row("state", str(settings.state))
    _screen.print(table)


@app.command()
def status(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """How the box is: model, what waits for PACS and registry, disk."""
    from appliance import parts

    box = parts.overview(configuration.load(config)).box()
    if as_json:
        typer.echo(json.dumps(asdict(box), default=str, indent=2))
        return
    table = Table(title=f"{box.site} / {box.device}", show_header=False)
    table.add_row("software", box.software)
    table.add_row("receives as", f"{box.ae_title} on port {box.port}")
    table.add_row("model", (box.bundle or "none active") + (" (synthetic, never clinical)" if box.synthetic else ""))
    if box.bundle_trouble:
        table.add_row("model trouble", escape(box.bundle_trouble))
    table.add_row("waiting", f"{box.objects_waiting} objects for the PACS, {box.messages_waiting} for the registry")
    table.add_row("disk", f"{box.disk_free_gb:.0f} GB free" + (" [bold red]low[/]" if box.disk_low else ""))
    _screen.print(table)


@app.command()
def senders(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Who has sent since the receiver started, and what went wrong: refused associations, broken ones, bad slices.

    Start here when a scanner says that it cannot send. A scanner that is not in the list never reached this box: check
    its address and port for us, and the network between.
    """
    from appliance.intake import senders as known

    found = known.read(configuration.load(config).senders)
    if as_json:
        typer.echo(json.dumps([asdict(sender) for sender in found], indent=2))
        return
    table = Table("sender", "last heard of", "associations", "slices", "requests", "what went wrong last", "not taken")
    for sender in found:
        associations = f"{sender.associations} accepted"
        for count, word in ((sender.associations_refused, "refused"), (sender.associations_broken, "broken off")):
            associations += f"\n[bold red]{count} {word}[/]" if count else ""
        slices = str(sender.instances)
        slices += f"\n[bold red]{sender.instances_refused} refused[/]" if sender.instances_refused else ""
        requests = str(sender.requests)
        requests += f"\n[bold red]{sender.requests_refused} refused[/]" if sender.requests_refused else ""
        requests += f"\n{sender.reports_owed} reports owed" if sender.reports_owed else ""
        requests += f"\n[dim]{escape(sender.report_trouble)}[/]" if sender.report_trouble else ""
        trouble = f"{escape(sender.trouble)}\n[dim]{sender.trouble_at}[/]" if sender.trouble else ""
        title = f"[bold]{escape(sender.ae_title)}[/]\n{sender.address}{' over TLS' if sender.tls else ''}"
        table.add_row(
            title, sender.last_at, associations, slices, requests, trouble, "\n".join(_not_taken(sender.not_taken))
        )
    _screen.print(table if found else "Nobody has connected since the receiver started.")


def _not_taken(contexts: Sequence[tuple[str, tuple[str, ...], int]]) -> Iterator[str]:
    """What a sender offered in vain, by the standard's names: first kinds that are taken, but not so encoded."""
    from pydicom.uid import UID

    as_offered = {
        f"{UID(sop_class).name} as {', '.join(UID(syntax).name for syntax in syntaxes)}": None
        for sop_class, syntaxes, result in contexts
        if result != _KIND_NOT_TAKEN
    }
    kinds = list({UID(sop_class).name: None for sop_class, _, result in contexts if result == _KIND_NOT_TAKEN})
    yield from map(escape, (*as_offered, *kinds[:_KINDS_SHOWN]))
    if len(kinds) > _KINDS_SHOWN:
        yield f"and {len(kinds) - _KINDS_SHOWN} more kinds (--json has all)"


@app.command()
def completeness(
    config: ConfigOption = DEFAULT_CONFIG,
    limit: Annotated[int, typer.Option(min=0, max=1000, help="How many studies to explain, newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """When studies count as complete: how each scanner sends, the quiet time in use and why, and each study's reason.

    Geometry and counts decide as soon as they can; quiet time is what is left for studies that they can't judge. Slices
    that came late after quiet mean that it is too short for this scanner: follow the suggestion below the table.
    """
    from appliance import completeness as pacing
    from appliance import parts
    from appliance.storage.pace_file import PaceFile

    settings = configuration.load(config)
    file, names = PaceFile(settings.intake_db), parts.pseudonyms(settings)
    quiet = settings.receiver.quiet_seconds
    said = pacing.describe(file.paces(), file.completions(limit), quiet, names.study)
    if as_json:
        typer.echo(json.dumps(said, indent=2))
        return
    _screen.print(*pacing.tables(said), sep="\n")


@app.command("import")
def import_studies(
    path: Annotated[Path, typer.Argument(help="A folder, a CD or stick, a DICOMDIR, or one DICOM file.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Bring in studies from a folder, a USB stick or a CD. The receiver has to run; nothing on the medium is changed.

    Start it again as often as you like: what is here already is known by its content and not brought again.

    Example: `onescan-appliance import /media/usb`
    """
    from appliance import importing

    settings = configuration.load(config)
    with _progress(quiet=as_json) as bar:
        looking = bar.add_task("looking", total=None)
        found = importing.look(path, lambda count: bar.update(looking, completed=count))
        bar.update(looking, total=1, completed=1)
        files = [file for of_study in found.studies.values() for file in of_study]
        handing = bar.add_task(f"{len(files)} objects", total=sum(file.stat().st_size for file in files))
        top = path if path.is_dir() else path.parent
        outcome = importing.hand_in(found, top, settings.run, path.name, lambda count: bar.advance(handing, count))
    told = outcome.as_json(found)
    if as_json:
        typer.echo(json.dumps(told, indent=2))
    else:
        _screen.print(_imported(told))
    if told["refused"]:
        sys.exit(1)


def _progress(quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=quiet or not sys.stderr.isatty())


def _imported(told: dict[str, Any]) -> Table:
    table = Table(show_header=False)
    whole = told["stored"] + told["known"]
    table.add_row("brought in", f"{told['stored']} of {whole} objects, {told['studies']} studies")
    table.add_row("here already", str(told["known"]))
    for kind, count in told["not_wanted"].items():
        table.add_row("not taken", f"{count} × {escape(kind)}")
    table.add_row("no DICOM", f"{told['not_dicom']} files")
    for one in told["refused"]:
        table.add_row("[bold red]refused[/]", f"{escape(one['file'])}: {escape(one['why'])}")
    return table


@app.command()
def studies(
    config: ConfigOption = DEFAULT_CONFIG,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """What became of the studies that came last. No patient names: studies go by pseudonym."""
    from appliance import parts

    views = parts.overview(configuration.load(config)).studies(limit)
    if as_json:
        typer.echo(json.dumps([asdict(view) for view in views], default=str, indent=2))
        return
    table = Table("came", "study", "slices", "where it is", *[cancer.value for cancer in Cancer])
    for view in views:
        answers = {answer.cancer: answer for answer in view.answers}
        cells = [answers[c.value].verdict.replace("_", " ") if c.value in answers else "" for c in Cancer]
        table.add_row(f"{view.came_at:%m-%d %H:%M}", view.pseudonym[:8], str(view.instances), view.state, *cells)
    _screen.print(table)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def evaluate(context: typer.Context) -> None:
    """Judge a bundle on this hospital's own cases: DICOM studies and a table of outcomes."""
    from appliance import evaluate as judging  # what judges is no part of a box at work, nor of its memory

    judging.app(args=context.args, prog_name="onescan-appliance evaluate")


@app.command()
def conformance(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """This box's DICOM conformance statement (PS3.2) as its configuration has it, in Markdown."""
    from appliance.conformance import statement

    typer.echo(statement(configuration.load(config)), nl=False)


def main() -> None:
    """The console command: errors of ours are shown with what to do about them."""
    try:
        app()
    except OneScanError as error:
        complaint = Console(stderr=True)
        complaint.print(f"[bold red]{escape(str(error))}[/]", soft_wrap=True)
        complaint.print(escape(error.remedy()), soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
