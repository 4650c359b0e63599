"""`make bench-receive`: how long a scanner waits for us, beside dcmtk's storescp, Orthanc, pynetdicom and a bare copy.

dcmtk's storescu (PDU 131072, TCP_NODELAY=1 at both ends unless said otherwise) pushes one series; a round has every
receiver take it, in changing order. Ours is a provisioned box with all roles running; each of its pushes is a series
that it never saw, and its files are compared with what was sent. CPU: of the receiving process.

    make bench-receive ARGS="--runs 5 --slices 600"
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from pydicom import dcmread
from rich.progress import Progress

from appliance.intake.segments import records
from bench.peers.receivers import send_copies
from bench.record import Goal, Record, fsync_latency_ms
from core.extent import Extent
from deploy.embedded import OrthancPacs, free_port
from deploy.onescan import OneScan, Site
from engines.phantom import Scan, sample_patient
from engines.phantom.dicom import write_series

NO_DELAY = {**os.environ, "TCP_NODELAY": "1"}
PDU = ["--max-pdu", "131072"]
PEERS = ("storescp", "orthanc", "pynetdicom", "copy")
ASSOCIATIONS = (1, 2, 4, 8)
Figures = dict[str, list[float]]


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--slices", type=int, default=600)
    a = parser.parse_args()
    goals = {"receive_vs_storescp": Goal(1.0), "receive_cpu_vs_storescp": Goal(1.5)}
    record = Record("receive", f"A push of {a.slices} slices, 512×512, {a.runs} rounds", goals=goals)
    Path("var").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="var") as name, Progress() as progress:
        folder = Path(name).resolve()
        task = progress.add_task("bench-receive", total=a.runs * (len(PEERS) + len(ASSOCIATIONS) + 1))
        with OneScan(folder / "stack", Site(quiet_seconds=10.0)) as stack:
            figures = measure(stack, folder, a.runs, a.slices, progress, task)
        record.add("fsync_ms", "fdatasync of 4 KiB on this disk", [fsync_latency_ms(folder)], "ms")
    report(record, figures)
    record.finish()


def measure(stack: OneScan, folder: Path, runs: int, slices: int, progress: Progress, task: object) -> Figures:
    """Seconds, processor seconds, all of the receiver's."""
    figures: Figures = defaultdict(list)
    for run in range(runs):
        turns: list[tuple[str, int]] = [
            *((peer, 1) for peer in PEERS),
            *(("ours", n) for n in ASSOCIATIONS),
            ("slow", 1),
        ]
        for who, associations in turns if run % 2 == 0 else reversed(turns):
            files = series(folder, run, slices, f"{who}{associations}")
            if who in PEERS:
                seconds, cpu = peer(who, folder, files)
            else:
                seconds, cpu = ours(stack, files, associations, delay=who == "slow")
            key = who if associations == 1 else f"ours_{associations}"
            figures[f"{key}_s"].append(seconds)
            figures[f"{key}_cpu_s"].append(cpu)
            shutil.rmtree(files[0].parent)
            progress.advance(task)  # type: ignore[arg-type]
    return figures


def series(folder: Path, run: int, slices: int, what: str) -> list[Path]:
    """A series that nobody has seen yet."""
    seed = int.from_bytes(hashlib.sha256(f"{run} {what}".encode()).digest()[:4], "big")
    scan = Scan(spacing_mm=(700 / slices, 0.8, 0.8), matrix=(512, 512))
    return write_series(sample_patient(seed), folder / f"{run}-{what}", scan=scan)[:slices]


def ours(stack: OneScan, files: list[Path], associations: int, delay: bool) -> tuple[float, float]:
    """The box takes them on so many associations at once; then it is left alone until it has answered."""
    role = stack.role("receiver")
    before = sum(role.cpu_times()[:2])
    seconds = push(files, stack.dicom_port, stack.site.ae_title, associations, delay)
    cpu = sum(role.cpu_times()[:2]) - before
    study = stack.pseudonyms.study(str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID))
    compare(stack, files)
    stack.wait_for(lambda: any(s["study"] == study for s in stack.results()), "the study is answered", patience_s=300)
    return seconds, cpu


def compare(stack: OneScan, files: Sequence[Path]) -> None:
    """Every data set lies in the spool as it was sent."""
    study_uid = str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)
    study = hashlib.sha256(study_uid.encode()).hexdigest()[:32]
    segments = (stack.folder / "appliance" / "spool").glob(f"{study}-*.segment")
    kept = {dataset_digest(Extent(path, one.offset, one.size)) for path in segments for one in records(path)}
    missing = [path.name for path in files if dataset_digest(Extent(path)) not in kept]
    if missing:
        raise SystemExit(f"{len(missing)} slices are not in the spool as they were sent, {missing[0]} is one")


def dataset_digest(extent: Extent) -> str:
    """SHA-256 of a Part 10 object behind its file meta information (PS3.10 7.1)."""
    content = extent.read()
    length = int.from_bytes(content[140:144], "little")
    return hashlib.sha256(content[144 + length :]).hexdigest()


def peer(who: str, folder: Path, files: list[Path]) -> tuple[float, float]:
    """One of the others, freshly started, takes them."""
    out = folder / f"peer-{who}"
    out.mkdir()
    try:
        with receiving(who, out) as (process, port, title):
            before = sum(process.cpu_times()[:2])
            if who == "copy":
                began = time.perf_counter()
                send_copies(files, port)
                seconds = time.perf_counter() - began
            else:
                seconds = push(files, port, title, 1, delay=False)
            return seconds, sum(process.cpu_times()[:2]) - before
    finally:
        shutil.rmtree(out)


@contextlib.contextmanager
def receiving(who: str, out: Path) -> Iterator[tuple[psutil.Process, int, str]]:
    """A peer's process, port and AE title, ready."""
    if who == "orthanc":
        with OrthancPacs(out) as orthanc:
            yield psutil.Process(orthanc.pid), orthanc.port, orthanc.ae_title
        return
    port = free_port()
    storescp = ["storescp", *PDU, "-od", str(out), str(port)]
    command = (
        storescp if who == "storescp" else [sys.executable, "-m", "bench.peers.receivers", who, str(out), str(port)]
    )
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=NO_DELAY, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet) as server:
        try:
            process = psutil.Process(server.pid)
            while not any(c.laddr.port == port for c in process.net_connections() if c.status == psutil.CONN_LISTEN):
                time.sleep(0.05)
            yield process, port, "PEER"
        finally:
            server.terminate()


def push(files: list[Path], port: int, title: str, associations: int, delay: bool) -> float:
    """Seconds until every storescu, each with its share of the files, has ended. delay: Nagle's algorithm stays on."""
    environment = None if delay else NO_DELAY
    command = ["storescu", "-aet", "DEMOSCANNER", "-aec", title, *([] if delay else PDU), "127.0.0.1", str(port)]
    shares = [files[start::associations] for start in range(associations)]
    began = time.perf_counter()
    senders = [
        subprocess.Popen([*command, *map(str, share)], env=environment, stdout=subprocess.DEVNULL) for share in shares
    ]
    if max(sender.wait(600) for sender in senders):
        raise SystemExit(f"storescu to {title} failed")
    return time.perf_counter() - began


def report(record: Record, figures: Figures) -> None:
    """The rows, and what they say of each other."""
    names = {
        "ours": "ours, durable before each success, all roles running",
        "storescp": "dcmtk storescp, nothing synced",
        "orthanc": "Orthanc",
        "pynetdicom": "pynetdicom, nothing synced",
        "copy": "bare copy with fdatasync",
        "slow": "ours, default storescu (16 KiB PDU, Nagle)",
        **{f"ours_{n}": f"ours, {n} associations at once" for n in ASSOCIATIONS[1:]},
    }
    for key, what in names.items():
        record.add(f"{key}_s", what, figures[f"{key}_s"], "s")
        record.add(f"{key}_cpu_s", "  processor time", figures[f"{key}_cpu_s"], "s")
    for other in PEERS:
        ratios = [a / b for a, b in zip(figures["ours_s"], figures[f"{other}_s"], strict=True)]
        record.add(f"receive_vs_{other}", f"ours ÷ {other}", ratios, "×")
    pairs = zip(figures["ours_cpu_s"], figures["storescp_cpu_s"], strict=True)
    record.add("receive_cpu_vs_storescp", "ours ÷ storescp, processor time", [a / max(b, 0.01) for a, b in pairs], "×")


if __name__ == "__main__":
    main()
