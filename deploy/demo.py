"""`make demo`: the main job, on this machine, in `var/demo/`: a CT study goes in, seven answers come out.

Everything is real: Mosquitto, PostgreSQL, the registry, a provisioned appliance that fetches its model over the air, a
DICOM sender, a PACS that stores what it gets. Everything listens on 127.0.0.1 only and ends with this program.
"""

from __future__ import annotations

import fcntl
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from core import durable
from core.errors import OneScanError
from core.finding import Cancer
from deploy.onescan import POLL_S, REPOSITORY, OneScan, SetUpFailed
from engines.phantom import build, sample_person
from engines.phantom.dicom import default_scan, write_series

SCREEN = Console()
PROPOSE = {  # storescu proposes compressed transfer syntaxes only when asked to
    "1.2.840.10008.1.2.4.57": "--propose-lossless",
    "1.2.840.10008.1.2.4.70": "--propose-lossless",
    "1.2.840.10008.1.2.4.80": "--propose-jls-lossless",
    "1.2.840.10008.1.2.4.81": "--propose-jls-lossy",
    "1.2.840.10008.1.2.4.90": "--propose-j2k-lossless",
    "1.2.840.10008.1.2.4.91": "--propose-j2k-lossy",
    "1.2.840.10008.1.2.5": "--propose-rle",
}
KINDS = {"SR": "structured report", "SEG": "segmentation", "OT": "key image"}
WORDS = {
    "positive": "[bold red]▲ positive[/]",
    "indeterminate": "[yellow]? indeterminate[/]",
    "negative": "[green]✓ negative[/]",
    "not_analysed": "[dim]– not analysed[/]",
    "withheld": "[dim]◦ withheld (silent mode)[/]",
}


_LESION_MM = 32.0
"""Plain enough to be seen on a key image by everybody."""


class NoStudy(OneScanError):
    """The folder named as STUDY has nothing that can be sent."""

    default_remedy = "Name a folder with DICOM files: make demo STUDY=/path/to/dicom"


def main(
    once: Annotated[bool, typer.Option(help="Exit with 0 when the registry has acknowledged the result.")] = False,
    study: Annotated[
        Optional[Path],  # noqa: UP045 -- typer reads this at run time, on Python 3.10 too
        typer.Option(help="Folder with the DICOM files of one CT study, instead of a phantom."),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where everything lives; emptied at each start.")] = REPOSITORY
    / "var"
    / "demo",
    seed: Annotated[int, typer.Option(help="Which phantom patient.")] = 7,
) -> None:
    """Run OneScan's main job on this machine, with every part real."""
    try:
        with _alone(folder) as place:
            _run(place, once, study, seed)
    except OneScanError as error:
        SCREEN.print(f"[bold red]{escape(str(error))}[/]", soft_wrap=True)
        SCREEN.print(escape(error.remedy()), soft_wrap=True)
        raise typer.Exit(1) from error


def _run(folder: Path, once: bool, study: Path | None, seed: int) -> None:
    began = time.monotonic()
    files = _files(study) if study else None
    with OneScan(folder, say=lambda text: SCREEN.print(f"[dim]{time.monotonic() - began:5.1f} s[/] {text}")) as stack:
        answered = send_and_follow(stack, files or _phantom(folder / "phantom", seed, began))
        _show(stack, answered)
        if once:
            return
        SCREEN.print("\nEverything stays up until [bold]Ctrl-C[/].")
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        while not stop.wait(1.0):
            stack.registry.check()
            stack.appliance.check()
        SCREEN.print("Stopping.")


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """An empty folder, and no second demo in it."""
    durable.make_folder(folder.parent)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SetUpFailed(f"another demo runs in {folder}", remedy="Stop it first with Ctrl-C.") from error
        shutil.rmtree(folder, ignore_errors=True)
        yield durable.make_folder(folder, 0o755)


def _phantom(folder: Path, seed: int, began: float) -> list[Path]:
    said = f"Making a phantom patient with a cancer in lung and liver (seed {seed})"
    SCREEN.print(f"[dim]{time.monotonic() - began:5.1f} s[/] {said}")
    with _progress() as progress:
        task = progress.add_task("rendering", total=None)
        torso = build(sample_person(seed, {Cancer.LUNG: 1, Cancer.LIVER: 1}, diameter_mm=_LESION_MM))
        return write_series(
            torso,
            default_scan(torso, slice_mm=5.0),
            folder,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )


def _files(study: Path) -> list[Path]:
    if not study.is_dir():
        raise NoStudy(f"there is no folder {study}")
    files = [path for path in sorted(study.rglob("*")) if path.is_file() and _is_dicom(path)]
    if not files:
        raise NoStudy(f"there is no DICOM file in {study}")
    return files


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" and path.name != "DICOMDIR"


def push(stack: OneScan, files: list[Path]) -> subprocess.Popen[bytes]:
    """Send the files as a scanner would, with dcmtk's storescu."""
    command = ["storescu", "-aet", "DEMOSCANNER", "-aec", stack.site.ae_title, "--max-pdu", "131072"]
    option = _proposal(files[0])
    return subprocess.Popen(
        [*command, *option, "127.0.0.1", str(stack.dicom_port), *map(str, files)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _proposal(path: Path) -> list[str]:
    try:
        syntax = dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta.get("TransferSyntaxUID", "")
    except InvalidDicomError:
        return []
    return [PROPOSE[syntax]] if syntax in PROPOSE else []


def send_and_follow(stack: OneScan, files: list[Path]) -> dict[str, Any]:
    """Push the study and watch it until PACS and registry have the answer; returns the box's view of it."""
    known = {study["id"] for study in stack.studies()}
    sender = push(stack, files)
    with _progress() as progress:
        tasks = {
            name: progress.add_task(text, total=total)
            for name, text, total in (
                ("receive", "receiving", len(files)),
                ("analyse", "analysing", None),
                ("deliver", "delivering", None),
            )
        }
        while True:
            study = next((study for study in stack.studies() if study["id"] not in known), None)
            if study and _advance(progress, tasks, study, stack):
                return study
            _check_sender(sender)
            stack.appliance.check()
            time.sleep(POLL_S)


def _advance(progress: Progress, tasks: dict[str, TaskID], study: dict[str, Any], stack: OneScan) -> bool:
    progress.update(tasks["receive"], completed=study["instances"])
    if not study["answers"]:
        return False
    progress.update(tasks["analyse"], total=1, completed=1)
    delivered = len(stack.pacs.received)
    progress.update(tasks["deliver"], total=delivered + study["objects_waiting"] + 1, completed=delivered)
    if study["objects_waiting"] or not study["acknowledged"]:
        return False
    progress.update(tasks["deliver"], total=delivered + 1, completed=delivered + 1)
    return True


def _check_sender(sender: subprocess.Popen[bytes]) -> None:
    if sender.poll():
        words = sender.stderr.read().decode(errors="replace") if sender.stderr else ""
        raise SetUpFailed(f"storescu ended with {sender.returncode}: {words}")


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=SCREEN,
    )


def _show(stack: OneScan, study: dict[str, Any]) -> None:
    box = stack.box()
    table = Table("cancer", "answer", "why", "findings", title=f"Seven answers from one scan ({box['bundle']})")
    for answer in study["answers"]:
        score = f"score {answer['score']:.2f}" if answer["score"] is not None else ""
        why = answer["reason"] or "; ".join(part for part in (score, answer["detail"]) if part)
        table.add_row(answer["cancer"], WORDS[answer["verdict"]], why, str(answer["lesions"] or ""))
    SCREEN.print(table)
    if box["synthetic"]:
        SCREEN.print("[yellow]Synthetic reference model, trained on phantoms: never for clinical use.[/]")
    SCREEN.print(f"Complete because: {study['explanation']}")
    SCREEN.print("\nResult objects in the PACS:")
    for item in stack.pacs.received:
        SCREEN.print(f"  {KINDS.get(item.modality, item.modality):<17} {item.path}", soft_wrap=True, highlight=False)
    SCREEN.print(f"\nRegistry  {stack.registry_url}\nThe box   {stack.box_url}/studies/{study['id']}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
