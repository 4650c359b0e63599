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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from rich.progress import Progress

from appliance.intake.segments import records
from bench.peers import packing
from bench.peers.packing import JPEG_2000
from bench.peers.receivers import send_copies
from bench.record import Goal, Record, fsync_latency_ms
from core.extent import Extent
from deploy.embedded import OrthancPacs, free_port
from deploy.onescan import OneScan, Site
from engines.phantom import Scan, build, sample_person
from engines.phantom.dicom import write_series

NO_DELAY = {**os.environ, "TCP_NODELAY": "1"}
PDU = ["--max-pdu", "131072"]
PEERS = ("storescp", "orthanc", "pynetdicom", "copy")
ASSOCIATIONS = (1, 2, 4, 8)
PACKED_SLICES = 120
ENOUGH = 320 << 20
"""Of the reserve, where it is asked for: a push of 600 slices."""
Figures = dict[str, list[float]]


@dataclass(frozen=True)
class Way:
    """How a series is sent. packing: `bench.peers.packing`'s, for its transfer syntax. sender, peer: further arguments
    of storescu and, where storescp is measured beside, of that."""

    name: str
    associations: int = 1
    delay: bool = False
    packing: tuple[str, ...] = ()
    sender: tuple[str, ...] = ()
    peer: tuple[str, ...] | None = None
    tls: bool = False


PLAIN = Way("ours", peer=())
WAYS = (
    PLAIN,
    *(Way(f"ours_{n}", associations=n) for n in ASSOCIATIONS[1:]),
    Way("slow", delay=True),
    Way("tls", peer=(), tls=True),
    Way("jpeg_ls", packing=("dcmcjpls",), sender=("-xt",), peer=("+xa",)),
    Way("jpeg_lossless", packing=("dcmcjpeg", "+e1"), sender=("-xs",), peer=("+xa",)),
    Way("jpeg_2000", packing=JPEG_2000, sender=("-xv",), peer=("+xa",)),
    Way("rle", packing=("dcmcrle",), sender=("-xr",), peer=("+xa",)),
    Way("rle_with_nagle", delay=True, packing=("dcmcrle",), sender=("-xr",), peer=("+xa",)),
)


@dataclass(frozen=True)
class Certificate:
    """Of the box and of storescp, on files."""

    certificate: Path
    key: Path


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--slices", type=int, default=600)
    parser.add_argument("--reserve", type=int, default=512, help="MiB that the box writes ahead while nobody sends")
    a = parser.parse_args()
    goals = {"receive_vs_storescp": Goal(1.0), "receive_cpu_vs_storescp": Goal(1.5)}
    record = Record("receive", f"A push of {a.slices} slices, 512×512, {a.runs} rounds", goals=goals)
    Path("var").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="var") as name, Progress() as progress:
        folder = Path(name).resolve()
        task = progress.add_task("bench-receive", total=a.runs * (len(PEERS) - 1 + len(WAYS)))
        own = self_signed(folder)
        tls = {"port": 0, "certificate": str(own.certificate), "key": str(own.key)}
        receiver = {"tls": tls, "reserve_bytes": a.reserve << 20}
        with OneScan(folder / "stack", Site(quiet_seconds=10.0, receiver=receiver)) as stack:
            figures = measure(stack, folder, own, a.runs, a.slices, lambda: progress.advance(task))
        record.add("fsync_ms", "fdatasync of 4 KiB on this disk", [fsync_latency_ms(folder)], "ms")
    report(record, figures)
    record.finish()


def self_signed(folder: Path) -> Certificate:
    """A certificate for this run."""
    own = Certificate(folder / "box.crt", folder / "box.key")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    files = ["-subj", "/CN=127.0.0.1", "-keyout", str(own.key), "-out", str(own.certificate)]
    subprocess.run([*command, *files], check=True, capture_output=True)
    return own


def measure(
    stack: OneScan, folder: Path, own: Certificate, runs: int, slices: int, advance: Callable[[], None]
) -> Figures:
    """Seconds, processor seconds, all of the receiver's."""
    scan = Scan(spacing_mm=(700 / slices, 0.8, 0.8), matrix=(512, 512))
    template = [dcmread(path) for path in write_series(build(sample_person(1)), scan, folder / "template")[:slices]]
    figures: Figures = defaultdict(list)
    for run in range(runs):
        turns: list[str | Way] = [*PEERS[1:], *WAYS]
        for turn in turns if run % 2 == 0 else reversed(turns):
            name = turn if isinstance(turn, str) else turn.name
            files = series(template, folder / f"{run}-{name}")
            if isinstance(turn, str):
                taken = {turn: peer(turn, folder, files, PLAIN, own)}
            else:
                taken = both(stack, folder, pack(files, turn), turn, own, ours_first=run % 2 == 0)
            for key, (seconds, cpu) in taken.items():
                figures[f"{key}_s"].append(seconds)
                figures[f"{key}_cpu_s"].append(cpu)
            shutil.rmtree(files[0].parent)
            advance()
    return figures


def both(
    stack: OneScan, folder: Path, files: list[Path], way: Way, own: Certificate, ours_first: bool
) -> dict[str, tuple[float, float]]:
    """The box, and storescp beside it where this way has one, one right after the other."""
    taken: dict[str, tuple[float, float]] = {}
    if way.peer is not None and not ours_first:
        taken[beside(way)] = peer("storescp", folder, files, way, own)
    taken[way.name] = ours(stack, files, way)
    if way.peer is not None and ours_first:
        taken[beside(way)] = peer("storescp", folder, files, way, own)
    return taken


def beside(way: Way) -> str:
    """Key of the figures of storescp for a way of sending."""
    return "storescp" if way is PLAIN else f"storescp_{way.name}"


def pack(files: list[Path], way: Way) -> list[Path]:
    """The files in the transfer syntax of `way`; fewer of them where they have to be encoded."""
    if way.packing:
        files = files[:PACKED_SLICES]
        packing.pack(files, way.packing)
    return files


def series(template: Sequence[Dataset], into: Path) -> list[Path]:
    """A series that nobody has seen yet: the template's images under UIDs of their own."""
    into.mkdir()
    study, stack = generate_uid(), generate_uid()
    files = []
    for number, ds in enumerate(template):
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, stack, generate_uid()
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        files.append(into / f"{number:04}.dcm")
        ds.save_as(files[-1])
    return files


def ours(stack: OneScan, files: list[Path], way: Way) -> tuple[float, float]:
    """The box takes them; then it is left alone until it has answered."""
    role = stack.role("receiver")
    wait_for_reserve(stack)
    before = sum(role.cpu_times()[:2])
    port = int((stack.state / "run" / "receiver-tls.port").read_text()) if way.tls else stack.dicom_port
    seconds = push(files, port, stack.site.ae_title, way)
    cpu = sum(role.cpu_times()[:2]) - before
    study = stack.pseudonyms.study(str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID))
    compare(stack, files)
    stack.wait_for(lambda: any(s["study"] == study for s in stack.results()), "the study is answered", patience_s=300)
    return seconds, cpu


def wait_for_reserve(stack: OneScan) -> None:
    """Until the box has written enough of its spool ahead."""
    spool = stack.folder / "appliance" / "spool"
    enough = min(stack.site.receiver["reserve_bytes"], ENOUGH)

    def ready() -> bool:
        return sum(path.stat().st_size for path in spool.glob("[!.]*.zeros")) >= enough

    stack.wait_for(ready, "the reserve is written")


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


def peer(who: str, folder: Path, files: list[Path], way: Way, own: Certificate) -> tuple[float, float]:
    """One of the others, freshly started, takes them."""
    out = folder / f"peer-{who}"
    out.mkdir()
    tls = ("+tls", str(own.key), str(own.certificate), "-ic") if way.tls else ()
    try:
        with receiving(who, out, (*(way.peer or ()), *tls)) as (process, port, title):
            before = sum(process.cpu_times()[:2])
            if who == "copy":
                began = time.perf_counter()
                send_copies(files, port)
                seconds = time.perf_counter() - began
            else:
                seconds = push(files, port, title, way)
            return seconds, sum(process.cpu_times()[:2]) - before
    finally:
        shutil.rmtree(out)


@contextlib.contextmanager
def receiving(who: str, out: Path, more: Sequence[str]) -> Iterator[tuple[psutil.Process, int, str]]:
    """A peer's process, port and AE title, ready."""
    if who == "orthanc":
        with OrthancPacs(out) as orthanc:
            yield psutil.Process(orthanc.pid), orthanc.port, orthanc.ae_title
        return
    port = free_port()
    storescp = ["storescp", *PDU, *more, "-od", str(out), str(port)]
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


def push(files: list[Path], port: int, title: str, way: Way) -> float:
    """Seconds until every storescu, each with its share of the files, has ended."""
    environment = None if way.delay else NO_DELAY  # else Nagle's algorithm stays on
    options = [*(() if way.delay else PDU), *way.sender, *(("+tla", "-ic") if way.tls else ())]
    command = ["storescu", "-aet", "DEMOSCANNER", "-aec", title, *options, "127.0.0.1", str(port)]
    shares = [files[start :: way.associations] for start in range(way.associations)]
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
        "tls": "ours over TLS",
        "storescp_tls": "storescp over TLS",
    }
    for way in WAYS:
        if way.packing:
            what = f"{PACKED_SLICES} slices as {way.name.replace('_', ' ')}"
            names |= {way.name: f"ours, {what}", f"storescp_{way.name}": f"storescp, {what}"}
    for key, what in names.items():
        record.add(f"{key}_s", what, figures[f"{key}_s"], "s")
        record.add(f"{key}_cpu_s", "  processor time", figures[f"{key}_cpu_s"], "s")
    for other in PEERS:
        record.add(f"receive_vs_{other}", f"ours ÷ {other}", ratios(figures, "ours_s", f"{other}_s"), "×")
    for way in WAYS[1:]:
        if way.peer is not None:
            what = f"ours ÷ storescp, {way.name.replace('_', ' ')}"
            record.add(f"{way.name}_vs_storescp", what, ratios(figures, f"{way.name}_s", f"{beside(way)}_s"), "×")
    cpu = ratios(figures, "ours_cpu_s", "storescp_cpu_s")
    record.add("receive_cpu_vs_storescp", "ours ÷ storescp, processor time", cpu, "×")


def ratios(figures: Figures, one: str, other: str) -> list[float]:
    """Of the same rounds; processor times come in hundredths of a second."""
    return [a / max(b, 0.01) for a, b in zip(figures[one], figures[other], strict=True)]


if __name__ == "__main__":
    main()
