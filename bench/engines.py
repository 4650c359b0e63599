"""`make bench-engines`: the engines beside nnU-Net v2, MONAI, the plain loop and the machine's matrix products.

Whole scans, volume in memory → labels in memory: our bundle in fp32 and in the CPU's fastest precision, nnU-Net's own
predictor, MONAI's sliding window, on the same weights with the same tiles, step, mirroring and threads. Each run is a
process of its own; a round runs all, in changing order. CPU time stands beside wall time: on a machine that does other
things too it says more. Then the reference bundle's answers beside the plain loop over
the same tiles and beside matrix products.

    make bench-engines ARGS="--runs 5 --peer-runs 2"

Two scans: a phantom of 512×512×600, unmirrored; and the real 64-slice chest of ../shared/data (where that is), with all
eight mirrored runs. The model has the size of nnU-Net's own (32 to 320 features) and is hardly trained: it is here for
its arithmetic. Needs `scripts/setup referees`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from bench.record import Goal, Record
from core import durable
from engines.bundle import open_bundle, write_bundle
from engines.manifest import ManifestDraft
from engines.runtime.choice import choose

ROOT = Path(__file__).resolve().parents[1]
SCRATCH = ROOT / "var" / "bench-engines"
REAL = ROOT.parent / "shared" / "data" / "lungpetctdx_A0001_chest_5mm_B"
FEATURES, STEPS = "32,64,128,256,320", 150
PEERS = ("nnunet fp32", "monai fp32", "monai bf16")
GOALS = {
    "answers_vs_plain_loop": Goal(1.10),
    "nnunet_speedup_fp32": Goal(2, at_least=True),
    "nnunet_speedup_bf16": Goal(5, at_least=True),
    "nnunet_memory_share": Goal(0.25),
}
console = Console()


@dataclass(frozen=True)
class Scan:
    """name: of the rows. volume: .npy, int16 (z, y, x). mirror: eight runs a tile instead of one."""

    name: str
    what: str
    volume: Path
    spacing_mm: tuple[float, float, float]
    mirror: bool


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--runs", type=int, default=5, help="rounds of ours")
    parser.add_argument("--peer-runs", type=int, default=5, help="rounds that the peers take part in")
    parser.add_argument("--mirrored-runs", type=int, default=5, help="rounds of all with the mirrored scan")
    parser.add_argument("--referees", type=Path, default=ROOT / ".venv-referees", help="where nnU-Net and MONAI are")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--answer-runs", type=int, default=5, help="rounds of the reference bundle")
    parser.add_argument("--beside", default="", help="what else the machine did, for the record")
    a = parser.parse_args()
    durable.make_folder(SCRATCH)
    record = Record("engines", f"Engines, {a.threads} threads {a.beside}".strip(), goals=GOALS)
    model, bundles = _model(a.referees, a.threads)
    for scan in _scans():
        _whole_scan(record, scan, model, bundles[scan.mirror], a)
    _answers(record, a.answer_runs, a.threads)
    record.finish()


def _whole_scan(record: Record, scan: Scan, model: Path, bundle: Path, a: argparse.Namespace) -> None:
    """All that segment one scan, interleaved; a row each, and what they say of each other."""
    fast = choose("auto", a.threads).runtime.precision
    ours = ("ours fp32", *(f"ours {p}" for p in [fast] if p != "fp32"))
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    mine, theirs = (a.mirrored_runs, a.mirrored_runs) if scan.mirror else (a.runs, a.peer_runs)
    for index in range(max(mine, theirs)):
        present = [*(ours if index < mine else ()), *(PEERS if index < theirs else ())]
        for who in present if index % 2 == 0 else reversed(present):
            runs[who].append(_run(who, scan, model, bundle, a))
            last = runs[who][-1]
            console.print(f"{scan.name}, round {index + 1}, {who}: {json.dumps(last)}", soft_wrap=True)
    key = scan.name.replace("×", "x")
    for who, rows in runs.items():
        name, mirrored = f"{key}_{who.replace(' ', '_')}", "8 mirrored runs" if scan.mirror else "not mirrored"
        record.add(f"{name}_s", f"{scan.what}, {mirrored}: {who}", [r["seconds"] for r in rows], "s")
        record.add(f"{name}_cpu_s", "  all threads' CPU time", [r["cpu_s"] for r in rows], "s")
        for part in rows[0]["parts"]:
            values = [r["parts"].get(part, 0.0) for r in rows]
            record.add(f"{name}_{part.split(',')[0].replace(' ', '_')}_s", f"  of it {part}", values, "s")
        record.add(f"{name}_peak_mb", f"  peak of {who}", [r["peak_mb"] for r in rows], "MB RSS")
    _relations(record, key, ours, runs, scan)


def _relations(
    record: Record, key: str, ours: Sequence[str], runs: dict[str, list[dict[str, Any]]], scan: Scan
) -> None:
    peer = runs["nnunet fp32"]
    goals = key.startswith("512")
    expected = np.load(_labels(scan, "nnunet fp32"))
    for who in ours:
        precision = who.split()[1]
        pairs = list(zip(peer, runs[who], strict=False))  # of the same rounds
        speedup = [theirs["seconds"] / mine["seconds"] for theirs, mine in pairs]
        work = [theirs["cpu_s"] / mine["cpu_s"] for theirs, mine in pairs]
        share = [mine["peak_mb"] / theirs["peak_mb"] for theirs, mine in pairs]
        prefix = "" if goals else f"{key}_"
        record.add(f"{prefix}nnunet_speedup_{precision}", f"nnU-Net's time ÷ {who}, {scan.what}", speedup, "×")
        record.add(f"{prefix}nnunet_cpu_{precision}", f"nnU-Net's CPU time ÷ {who}'s, {scan.what}", work, "×")
        least = precision != "fp32" or len(ours) == 1
        name = f"{prefix}nnunet_memory_share" + ("" if least else "_fp32")
        record.add(name, f"peak memory of {who} ÷ nnU-Net's, {scan.what}", share, "×")
        dices = _dices(expected, np.load(_labels(scan, who)))
        record.add(f"{key}_dice_{precision}", f"least Dice of a label, {who} and nnU-Net", [min(dices)], "")


def _dices(expected: npt.NDArray[np.uint8], found: npt.NDArray[np.uint8]) -> list[float]:
    dices = []
    for label in range(1, int(expected.max()) + 1):
        a, b = expected == label, found == label
        total = np.count_nonzero(a) + np.count_nonzero(b)
        if total:
            dices.append(2 * np.count_nonzero(a & b) / total)
    return dices or [1.0]


def _run(who: str, scan: Scan, model: Path, bundle: Path, a: argparse.Namespace) -> dict[str, Any]:
    """One run in a process of its own."""
    peer, precision = who.split()
    job = {
        "model": str(model),
        "bundle": str(bundle),
        "volume": str(scan.volume),
        "spacing_mm": scan.spacing_mm,
        "labels": str(_labels(scan, who)),
        "threads": a.threads,
        "mirror": scan.mirror,
        "precision": precision,
    }
    path = SCRATCH / "job.json"
    durable.write_text(path, json.dumps(job))
    python = Path(sys.executable) if peer == "ours" else a.referees / "bin" / "python"
    module = {"ours": "ours", "nnunet": "nnunet", "monai": "sliding"}[peer]
    found: dict[str, Any] = json.loads(_output(python, f"bench.peers.{module}", str(path), threads=a.threads))
    return found


def _output(python: Path, module: str, *arguments: str, threads: int) -> str:
    """The last line that a module of ours prints."""
    counted = {n: str(threads) for n in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "nnUNet_def_n_proc")}
    environment = {**os.environ, **counted, "PYTHONPATH": str(ROOT), "nnUNet_compile": "false"}
    done = subprocess.run([python, "-m", module, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{module} failed:\n{done.stderr[-3000:]}")
    return done.stdout.strip().splitlines()[-1]


def _labels(scan: Scan, who: str) -> Path:
    return SCRATCH / f"labels-{scan.name}-{who.replace(' ', '-')}.npy"


def _model(referees: Path, threads: int) -> tuple[Path, dict[bool, Path]]:
    """nnU-Net's model folder, and its bundle by whether it mirrors. Made once."""
    python, made = referees / "bin" / "python", SCRATCH / f"model-{FEATURES.replace(',', '-')}-{STEPS}"
    named = made / "folder"
    if not named.exists():
        durable.make_folder(made)
        console.print("making the model (nnU-Net's own trainer)")
        folder = _output(python, "bench.peers.model", str(made), FEATURES, str(STEPS), threads=threads)
        durable.write_text(named, folder)
    model, bundle, unmirrored = Path(named.read_text()), made / "bundle", made / "bundle-unmirrored"
    if not bundle.exists():
        _output(python, "engines.cli", "import", "nnunet", str(model), "--to", str(bundle), threads=threads)
    if not unmirrored.exists():
        whole = open_bundle(bundle)
        networks = [n.model_copy(update={"mirror": ()}) for n in whole.manifest.networks]
        fields = {**whole.manifest.model_dump(exclude={"files"}), "networks": networks}
        write_bundle(unmirrored, ManifestDraft.model_validate(fields), whole.contents())
    return model, {True: bundle, False: unmirrored}


def _scans() -> list[Scan]:
    large = SCRATCH / "phantom-512x512x600.npy"
    scans = [Scan("512×512×600", "phantom 512×512×600", _saved(large, _phantom), (1.0, 0.8, 0.8), False)]
    if REAL.is_dir():
        volume = _saved(SCRATCH / "chest-64.npy", _chest)
        scans.append(Scan("chest64", "real chest 512×512×64", volume, (5.0, 0.842, 0.842), True))
    return scans


def _saved(path: Path, make: Callable[[], npt.NDArray[np.int16]]) -> Path:
    if not path.exists():
        console.print(f"making {path.name}")
        volume = make()
        with durable.writing(path) as file:
            np.save(file, volume)
    return path


def _phantom() -> npt.NDArray[np.int16]:
    from engines.phantom import Scan as PhantomScan
    from engines.phantom import build, render, sample_person

    return render(build(sample_person(7)), PhantomScan((1.0, 0.8, 0.8), (512, 512))).volume.hu[:600]


def _chest() -> npt.NDArray[np.int16]:
    from pydicom import dcmread

    slices = sorted((dcmread(p) for p in REAL.glob("*.dcm")), key=lambda ds: float(ds.ImagePositionPatient[2]))
    hu = [ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in slices]
    return np.stack(hu).astype(np.int16)


def _answers(record: Record, runs: int, threads: int) -> None:
    """The reference bundle on the large phantom: `engines.measuring.speed`."""
    from core.volume import Geometry, Volume
    from engines.cascade import PatientContext
    from engines.commands.options import REFERENCE
    from engines.measuring.speed import measure

    (scan, *_) = _scans()
    hu = np.load(scan.volume)
    volume = Volume(hu, Geometry(hu.shape, scan.spacing_mm, (0.0, 0.0, 0.0)))
    runtime = choose("auto", threads).runtime
    found = measure(open_bundle(REFERENCE), runtime, volume, PatientContext(60), runs)
    what, how = "reference bundle on the phantom 512×512×600", f"{runtime.name} {runtime.precision}"
    record.add("answers_s", f"{what}, {how}: volume → seven answers", [found.total], "s")
    record.add("plain_loop_s", "plain loop over the same tiles", [found.loop], "s")
    record.add("answers_vs_plain_loop", "ratio of the two", found.ratios, "×")
    for name, seconds in (*found.stages.items(), *found.parts.items()):
        if seconds:
            record.add(f"answers_{name}_s", f"  of it {name}", [seconds], "s")
    if found.gemm_gflops and found.of_peak and found.loop_of_peak:
        record.add("gemm_gflops", f"matrix products, {how}", [found.gemm_gflops], "GFLOP/s")
        record.add("answers_of_gemm_peak", "answers, share of that", [found.of_peak], "")
        record.add("plain_loop_of_gemm_peak", "plain loop, share of that", [found.loop_of_peak], "")
    record.add("answers_peak_mb", "memory beyond the volume", [found.peak_mb], "MiB")


if __name__ == "__main__":
    main()
