"""A bundle on a volume, beside a plain loop over the same tiles and beside bare matrix products: interleaved.

The loop is `network.run(tile)` for every tile that the cascade ran, on the same runtime at the same precision: no
resampling, no blending, no rules. What the cascade takes beyond it is what surrounds the networks. The matrix products
(`graphs.gemm`) tell what the machine can do in this runtime and precision at this moment.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core import durable
from core.volume import Index, Volume
from engines.bundle import Bundle
from engines.cascade import Analysis, Budget, Cascade, PatientContext
from engines.measuring.graphs import GEMM_CHANNELS, GEMM_FLOP, GEMM_SHAPE, flop, gemm
from engines.measuring.memory import forget_peak, peak_bytes
from engines.measuring.watching import Call, Watched
from engines.runtime import Runtime, Tensor

STAGES = ("localise", "classify", "detect", "characterise", "lesions")
PARTS = ("preprocess", "compile", "network", "blend", "labels")
_UNLIMITED = Budget(deadline_s=1e9, memory_mb=1e9)


@dataclass(frozen=True)
class NetworkShare:
    """One network in the loop. shape: its largest input (z, y, x). runs: of it; seconds: median of them all together;
    gflop: of them all together."""

    network: str
    shape: Index
    runs: int
    seconds: float
    gflop: float


@dataclass(frozen=True, eq=False)
class Speed:
    """Seconds are medians over `runs` rounds; `ratios` has each round's.

    total: analyse() from volume to answers. loop: the same tiles by themselves. stages, parts: of the total, as
    `Analysis.timings_s` has them. first: the first analysis, which loads and compiles. gemm_gflops: what matrix
    products reach here, in 10⁹ operations a second: median over the rounds of the best of three; None on a runtime that
    runs nothing but what was built for it (TensorRT). peak_mb: resident MiB
    at most during the first analysis, beyond what was there before it: all of networks, compiling and analysing,
    without the volume and Python itself.
    """

    runs: int
    total: float
    loop: float
    ratios: tuple[float, ...]
    stages: Mapping[str, float]
    parts: Mapping[str, float]
    first: float
    networks: tuple[NetworkShare, ...]
    gemm_gflops: float | None
    peak_mb: float
    analysis: Analysis

    @property
    def ratio(self) -> float:
        """Cascade over loop, median of the rounds' ratios."""
        return statistics.median(self.ratios)

    @property
    def gflop(self) -> float:
        """10⁹ operations of all networks together."""
        return sum(share.gflop for share in self.networks)

    @property
    def of_peak(self) -> float | None:
        """Operations a second of the whole analysis, as a share of the GEMM peak."""
        return self.gflop / self.total / self.gemm_gflops if self.gemm_gflops else None

    @property
    def loop_of_peak(self) -> float | None:
        """The same of the plain loop: what the runtime makes of the networks."""
        return self.gflop / self.loop / self.gemm_gflops if self.gemm_gflops and self.loop else None


@dataclass(eq=False)
class _Rounds:
    totals: list[float] = field(default_factory=list)
    loops: list[float] = field(default_factory=list)
    gemms: list[float] = field(default_factory=list)
    timings: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    by_file: dict[Path, list[float]] = field(default_factory=lambda: defaultdict(list))


def measure(
    bundle: Bundle,
    runtime: Runtime,
    volume: Volume,
    patient: PatientContext,
    runs: int = 5,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> Speed:
    """Run a bundle `runs` times on a volume, each round beside the loop and the matrix products, in changing order."""
    before = forget_peak()
    watched = Watched(runtime)
    cascade = Cascade(bundle, watched, _UNLIMITED)
    begun = time.perf_counter()
    analysis = cascade.analyse(volume, patient)
    first, peak = time.perf_counter() - begun, peak_bytes()
    watched.noting = True
    cascade.analyse(volume, patient)
    watched.noting = False
    products = _probe(runtime)
    rounds = _Rounds()
    for index in range(runs):
        step(index, runs)
        if index % 2:
            _loop(watched.calls, rounds)
        _analyse(cascade, volume, patient, rounds)
        if index % 2 == 0:
            _loop(watched.calls, rounds)
        if products is not None:
            rounds.gemms.append(products.gflops())
    return _speed(bundle, watched.calls, rounds, analysis, first, (peak - before) / 2**20)


class GemmProbe:
    """Matrix products on a runtime at its precision."""

    def __init__(self, runtime: Runtime) -> None:
        with tempfile.TemporaryDirectory(prefix="onescan-") as folder:
            path = Path(folder) / "gemm"
            durable.write_bytes(path, gemm(as_int8=runtime.precision == "int8"))
            self._network = runtime.load(path)
            self._image: Tensor = np.random.default_rng(1).standard_normal((1, GEMM_CHANNELS, *GEMM_SHAPE)).astype("f4")
            self._network.run(self._image)

    def gflops(self, times: int = 3) -> float:
        """10⁹ operations a second, of the quickest run."""
        taken = []
        for _ in range(times):
            begun = time.perf_counter()
            self._network.run(self._image)
            taken.append(time.perf_counter() - begun)
        return GEMM_FLOP / min(taken) / 1e9


def _probe(runtime: Runtime) -> GemmProbe | None:
    """None on TensorRT: it has a plan for the bundle's networks, for these products it has none."""
    return None if runtime.name == "tensorrt" else GemmProbe(runtime)


def _analyse(cascade: Cascade, volume: Volume, patient: PatientContext, rounds: _Rounds) -> None:
    begun = time.perf_counter()
    analysis = cascade.analyse(volume, patient)
    rounds.totals.append(time.perf_counter() - begun)
    for name in (*STAGES, *PARTS):
        rounds.timings[name].append(analysis.timings_s.get(name, 0.0))


def _loop(calls: Sequence[Call], rounds: _Rounds) -> None:
    seconds: dict[Path, float] = defaultdict(float)
    begun = last = time.perf_counter()
    for call in calls:
        call.network.run(call.image)
        now = time.perf_counter()
        seconds[call.file] += now - last
        last = now
    rounds.loops.append(last - begun)
    for file, taken in seconds.items():
        rounds.by_file[file].append(taken)


def _speed(
    bundle: Bundle, calls: Sequence[Call], rounds: _Rounds, analysis: Analysis, first: float, peak_mb: float
) -> Speed:
    timings = {name: statistics.median(values) for name, values in rounds.timings.items()}
    return Speed(
        runs=len(rounds.totals),
        total=statistics.median(rounds.totals),
        loop=statistics.median(rounds.loops),
        ratios=tuple(a / b for a, b in zip(rounds.totals, rounds.loops, strict=True) if b),
        stages={name: timings[name] for name in STAGES},
        parts={name: timings[name] for name in PARTS},
        first=first,
        networks=_shares(bundle, calls, rounds),
        gemm_gflops=statistics.median(rounds.gemms) if rounds.gemms else None,
        peak_mb=peak_mb,
        analysis=analysis,
    )


def _shares(bundle: Bundle, calls: Sequence[Call], rounds: _Rounds) -> tuple[NetworkShare, ...]:
    """Each network of the manifest that ran, its folds together."""
    work: dict[tuple[Path, Index], float] = {}
    for call in calls:
        key = (call.file, call.shape)
        if key not in work:
            work[key] = flop(call.file, call.shape) / 1e9
    shares = []
    for spec in bundle.manifest.networks:
        files = {bundle.path(name) for name in spec.all_files}
        mine = [call for call in calls if call.file in files]
        if mine:
            seconds = sum(statistics.median(rounds.by_file[file]) for file in files if file in rounds.by_file)
            gflop = sum(work[(call.file, call.shape)] for call in mine)
            shape = max((call.shape for call in mine), key=lambda zyx: zyx[0] * zyx[1] * zyx[2])
            shares.append(NetworkShare(spec.id, shape, len(mine), seconds, gflop))
    return tuple(shares)
