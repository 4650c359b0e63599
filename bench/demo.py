"""`make bench-demo`: the main job in figures.

Receive time beside dcmtk's storescp (which syncs nothing), interleaved; last slice → seven answers beside the pure time
in the networks; peak memory per role; the whole appliance idle.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from pydicom import dcmread
from rich.progress import Progress

from bench.receive import wait_for_reserve
from bench.record import Goal, Record, fsync_latency_ms
from deploy.demo import push
from deploy.embedded import free_port
from deploy.onescan import OneScan, Site
from engines.phantom import Scan, build, sample_person
from engines.phantom.dicom import write_series

RUNS = 5
RESERVE = 512 << 20  # the default of a box
SETTLE_S, IDLE_S = 10.0, 60.0  # the kernel counts processor time in steps of 10 ms
ROLES = ("receiver", "analyser", "courier", "updater", "console")
SCAN = Scan(spacing_mm=(3.0, 0.8, 0.8), matrix=(512, 512))
NO_DELAY = {**os.environ, "TCP_NODELAY": "1"}


def main() -> None:
    """Measure and record."""
    record = Record(
        "demo",
        f"The main job, {RUNS} phantom studies, 512×512, 3 mm",
        goals={
            "receive_vs_storescp": Goal(1.5),
            "answer_vs_network": Goal(1.10),
            "idle_pss_mb": Goal(250),
            "idle_cpu_percent": Goal(0.99),
        },
    )
    with tempfile.TemporaryDirectory(dir="var") as name, Progress() as progress:
        folder = Path(name).resolve()
        task = progress.add_task("bench-demo", total=RUNS + 2)
        with OneScan(folder / "stack", Site(quiet_seconds=10.0, receiver={"reserve_bytes": RESERVE})) as stack:
            progress.advance(task)
            measure(record, stack, folder, lambda: progress.advance(task))
    record.finish()


def measure(record: Record, stack: OneScan, folder: Path, advance: Callable[[], None]) -> None:
    """All figures."""
    ours: list[float] = []
    peer: list[float] = []
    waits: list[float] = []
    networks: list[float] = []
    for run in range(RUNS):
        files = write_series(build(sample_person(100 + run)), SCAN, folder / f"study-{run}")
        if run % 2:
            peer.append(storescp(folder, files))
        seconds, ended = receive(stack, files)
        wait, network = answer_times(stack, files, ended)
        ours.append(seconds)
        waits.append(wait)
        networks.append(network)
        if not run % 2:
            peer.append(storescp(folder, files))
        advance()
    record.add("load", "load average of the machine, 15 minutes", [os.getloadavg()[2]], "processes")
    record.add("slices", "slices of the last study", [len(files)], "count")
    record.add("fsync_ms", "fdatasync of 4 KiB on this disk", [fsync_latency_ms(folder)], "ms")
    record.add("receive_s", "receive, durable before each success", ours, "s")
    record.add("storescp_s", "the same push to storescp, TCP_NODELAY=1, nothing synced", peer, "s")
    record.add("receive_vs_storescp", "ratio of the two", [a / b for a, b in zip(ours, peer, strict=True)], "×")
    record.add("answer_s", "end of the push → seven answers committed", waits, "s")
    record.add("network_s", "of it purely in the networks", networks, "s")
    record.add("answer_vs_network", "ratio of the two", [a / b for a, b in zip(waits, networks, strict=True)], "×")
    for role in ROLES:
        record.add(f"peak_{role}_mb", f"peak memory, {role}", [peak_mb(stack, role)], "MB RSS")
    idle(record, stack)


def receive(stack: OneScan, files: list[Path]) -> tuple[float, dt.datetime]:
    """Seconds from the start to the end of storescu, and when that end was."""
    wait_for_reserve(stack)
    began = time.perf_counter()
    if push(stack, files).wait(300):
        raise SystemExit("storescu failed; see the appliance's log")
    return time.perf_counter() - began, dt.datetime.now(dt.timezone.utc)


def storescp(folder: Path, files: list[Path]) -> float:
    """The same push to dcmtk's storescp."""
    port, out = free_port(), folder / "storescp"
    out.mkdir(exist_ok=True)
    command = ["storescp", "--max-pdu", "131072", "-od", str(out), str(port)]
    server = subprocess.Popen(command, env=NO_DELAY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while subprocess.run(["echoscu", "127.0.0.1", str(port)], capture_output=True).returncode:
            time.sleep(0.05)
        sender = ["storescu", "-aet", "DEMOSCANNER", "--max-pdu", "131072", "127.0.0.1", str(port), *map(str, files)]
        began = time.perf_counter()
        subprocess.run(sender, check=True, capture_output=True)
        return time.perf_counter() - began
    finally:
        server.terminate()
        server.wait()


def answer_times(stack: OneScan, files: list[Path], sent: dt.datetime) -> tuple[float, float]:
    """(end of the push → answers committed, time in the networks), seconds, from the box's own log."""
    study = stack.pseudonyms.study(str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID))
    line = stack.wait_for(lambda: answered_line(stack, study), "the study is answered", patience_s=300)
    answered = dt.datetime.fromisoformat(line["at"])
    return (answered - sent).total_seconds(), float(line["timings_s"]["network"])


def answered_line(stack: OneScan, study: str) -> dict[str, Any] | None:
    """The analyser's log line about this study."""
    for text in stack.appliance.log.read_text().splitlines():
        if study in text and '"study answered"' in text:
            found: dict[str, Any] = json.loads(text)
            return found
    return None


def peak_mb(stack: OneScan, role: str) -> float:
    """VmHWM of a role's process."""
    status = Path(f"/proc/{stack.role(role).pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def idle(record: Record, stack: OneScan) -> None:
    """The appliance alone, doing nothing, its networks let go of: restart it and look."""
    stack.appliance.stop()
    stack.appliance.start()
    stack.wait_for(stack.box, "the box is up")
    time.sleep(SETTLE_S)
    processes = [psutil.Process(stack.appliance.pid), *(stack.role(role) for role in ROLES)]
    record.add("idle_pss_mb", "idle appliance, all processes", [sum(pss_mb(p.pid) for p in processes)], "MB PSS")
    before = [p.cpu_times() for p in processes]
    time.sleep(IDLE_S)
    after = [p.cpu_times() for p in processes]
    used = sum(a.user + a.system - b.user - b.system for a, b in zip(after, before, strict=True))
    record.add("idle_cpu_percent", "idle appliance, of one core", [round(100 * used / IDLE_S, 3)], "%")


def pss_mb(pid: int) -> float:
    """Proportional set size of a process."""
    line = next(x for x in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if x.startswith("Pss:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
