"""TensorRT and CUDA on a real GPU. Complete, and skipped where there is none: docs/gpu-status.md says what was seen.

The kernels' own tests (test_ring.py, test_slabs.py) run on the real GPU too, as the last of their devices.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest

from core.errors import EngineError
from core.volume import Index
from engines import volumefile
from engines.build import profile_of
from engines.buildprocess import ChildBuild
from engines.bundle import open_bundle
from engines.cascade.tiles import tiles
from engines.cascade.whole import segment_volume
from engines.commands.options import REFERENCE
from engines.importers.graph import read, to_bytes
from engines.importers.precision import to_fp16
from engines.parity import run_golden
from engines.runtime import Window
from engines.runtime.gpu import GpuNetwork, TensorRtRuntime
from engines.runtime.host import HostPass
from engines.runtime.onnx import OnnxRuntime
from engines.runtime.plans import Profile, Shelf
from tests.engines.runtime import networks
from tests.engines.runtime.gpu.test_ring import OrtNetwork, slide, uploaded

if TYPE_CHECKING:
    from engines.runtime.cuda import CudaDevice

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]
WORKSPACE = 2 << 30
SHIPPED = open_bundle(REFERENCE)
ROOT = Path(__file__).parents[4]


def planned(
    gpu: CudaDevice, folder: Path, content: bytes, profile: Profile, *, tf32: bool = True
) -> tuple[TensorRtRuntime, GpuNetwork]:
    """A network with a plan that was built here and now. Skips, saying why, where TensorRT is not there."""
    try:
        from engines.runtime import tensorrt
    except (ImportError, OSError) as error:
        pytest.skip(f"no TensorRT to run this with: {error}")
    shelf = Shelf(folder / "plans")
    runtime = TensorRtRuntime(gpu, tensorrt, shelf, tf32=tf32, trial=True)
    try:
        built = tensorrt.build(content, profile, workspace=WORKSPACE, tf32=tf32)
    except EngineError as error:
        if "rtx" in tensorrt.NAME:  # it knows a few GPUs only
            pytest.skip(f"{tensorrt.NAME} does not build for {gpu.identity.name}: {error}")
        raise
    assert built.content is not None
    shelf.save(runtime.key(content), profile, built.precision, built.content, 0)
    (folder / "network.onnx").write_bytes(content)
    return runtime, runtime.load(folder / "network.onnx")


def phantom_like(shape: Index) -> npt.NDArray[np.float32]:
    """Smooth structures with noise, about the range of a normalised CT: logits on it are far from saturated."""
    rng = np.random.default_rng(11)
    z, y, x = np.ogrid[tuple(slice(0, n) for n in shape)]
    smooth = np.sin(z / 7) + np.cos(y / 9) * np.sin(x / 11)
    return (smooth + rng.normal(scale=0.3, size=shape)).astype(np.float32)[None, None]


def relative_rms(got: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean((got - expected) ** 2) / np.mean(expected**2)))


@pytest.mark.parametrize(
    ("half", "tf32", "most", "agreeing"),
    [(False, False, 1e-4, 0.9999), (False, True, 1e-2, 0.995), (True, True, 2e-2, 0.99)],
)
@pytest.mark.parametrize("network_id", [network.id for network in SHIPPED.manifest.networks])
def test_tensorrt_gives_what_onnx_runtime_gives_at_fp32(
    gpu: CudaDevice, tmp_path: Path, network_id: str, half: bool, tf32: bool, most: float, agreeing: float
) -> None:
    network = SHIPPED.manifest.network(network_id)
    reference = SHIPPED.path(network.files[0]).read_bytes()
    content = to_bytes(to_fp16(read(reference, network_id), network_id)) if half else reference
    profile = profile_of(network)
    _, loaded = planned(gpu, tmp_path, content, profile, tf32=tf32)
    shapes = {profile.best, tuple(min(n, 96) for n in profile.most)}
    session = ort.InferenceSession(reference, providers=["CPUExecutionProvider"])
    for shape in sorted(shapes):
        x = np.repeat(phantom_like(shape), 2 if network.mask else 1, axis=1)
        got, expected = loaded.run(x), session.run(["logits"], {"image": x})[0]
        assert relative_rms(got, expected) <= most
        assert (got.argmax(axis=1) == expected.argmax(axis=1)).mean() >= agreeing
        assert loaded.run(x).tobytes() == got.tobytes()  # deterministic on one device


def test_int8_gives_what_onnx_runtime_gives_of_the_same_file(gpu: CudaDevice, tmp_path: Path) -> None:
    from tests.engines.runtime.gpu.test_tensorrt import quantised

    content, x = quantised(), phantom_like((16, 16, 16))
    _, loaded = planned(gpu, tmp_path, content, Profile.exact((16, 16, 16)))
    expected = ort.InferenceSession(content).run(["logits"], {"image": x})[0]
    assert relative_rms(loaded.run(x), expected) <= 2e-2  # a value at the border of two steps may fall either way


def test_a_pass_by_tensorrt_gives_what_a_pass_on_the_host_gives(gpu: CudaDevice, tmp_path: Path) -> None:
    spec = SHIPPED.manifest.network("lung")
    content = SHIPPED.path(spec.files[0]).read_bytes()
    runtime, loaded = planned(gpu, tmp_path, content, profile_of(spec), tf32=False)
    x = phantom_like((150, 100, 70))[0]
    window = Window((64, 64, 64), 2, (-2.0,), activation="softmax", runs=2)
    mirrors = [(0, 0, 0), (1, 0, 1)]
    sliding = runtime.open_pass([loaded], uploaded(gpu, x), window)
    got = slide(sliding, (150, 100, 70), window.size, 0.25, mirrors)
    expected = slide(HostPass([OrtNetwork(content)], x, window), (150, 100, 70), window.size, 0.25, mirrors)
    np.testing.assert_allclose(got, expected, atol=2e-3)
    assert sliding.seconds["network"] > 0


def test_the_reference_bundle_s_answers_and_label_maps_are_the_host_s(gpu: CudaDevice, tmp_path: Path) -> None:
    for network in SHIPPED.manifest.networks:
        for name in network.files:
            content = SHIPPED.path(name).read_bytes()
            runtime, _ = planned(gpu, tmp_path, content, profile_of(network), tf32=False)
    assert all(outcome.passed for outcome in run_golden(SHIPPED, runtime))
    volume = volumefile.read(SHIPPED.path(SHIPPED.manifest.golden[0].input))
    localiser = SHIPPED.manifest.localiser.id
    expected = segment_volume(SHIPPED, localiser, OnnxRuntime(4), volume).labels
    got = segment_volume(SHIPPED, localiser, runtime, volume).labels
    assert len(np.unique(expected)) > 1
    assert np.count_nonzero(got != expected) <= 1e-3 * expected.size


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(networks.zeros(), "zero throughout"), (networks.logarithms(), "NaN or infinity")],
    ids=["zeros", "nan"],
)
def test_an_output_that_can_not_be_trusted_is_a_failure(
    gpu: CudaDevice, tmp_path: Path, content: bytes, complaint: str
) -> None:
    runtime, loaded = planned(gpu, tmp_path, content, Profile.exact((8, 8, 8)))
    x = phantom_like((8, 8, 8))
    with pytest.raises(EngineError, match=complaint):
        loaded.run(x)
    sliding = runtime.open_pass([loaded], uploaded(gpu, x[0]), Window((8, 8, 8), 2, (0.0,)))
    sliding.add(next(tiles((8, 8, 8), (8, 8, 8), 0)))
    with pytest.raises(EngineError, match=complaint):
        sliding.take(8)


def test_an_image_beyond_the_profile_is_refused_in_words(gpu: CudaDevice, tmp_path: Path) -> None:
    _, loaded = planned(gpu, tmp_path, networks.smoothing(), Profile((4, 4, 4), (8, 8, 8), (16, 16, 16)))
    with pytest.raises(EngineError, match="no plan was built"):
        loaded.run(phantom_like((17, 8, 8)))


def test_scratch_memory_follows_the_images_shape(gpu: CudaDevice, tmp_path: Path) -> None:
    network = SHIPPED.manifest.localiser
    content = SHIPPED.path(network.files[0]).read_bytes()
    profile = profile_of(network)
    _, loaded = planned(gpu, tmp_path, content, profile)
    execution = loaded.execution(profile.best)
    small, large = (execution.scratch_bytes((1, 1, *shape)) for shape in (profile.least, profile.most))
    assert 0 < small < large


def test_the_whole_build_of_the_reference_bundle_agrees_on_its_golden_cases(gpu: CudaDevice, tmp_path: Path) -> None:
    planned(gpu, tmp_path, networks.smoothing(), Profile.exact((8, 8, 8)))  # skips where TensorRT can't build here
    build = ChildBuild(tmp_path / "built")
    outcome = build.run(REFERENCE)
    assert outcome.kind == "ready", outcome.detail
    assert len(outcome.plans) == len(SHIPPED.manifest.networks)
    assert build.run(REFERENCE).built == 0


# ------------------------------------------------------------------------------------ CUDA alone, without TensorRT


def test_too_little_memory_is_an_error_of_that_call_only(gpu: CudaDevice) -> None:
    with pytest.raises(EngineError, match=r"no .* MiB of memory left"):
        gpu.allocate(1 << 50)
    assert gpu.allocate(1 << 20).nbytes == 1 << 20
    stream = gpu.stream()
    gpu.fill(gpu.allocate(256).address, 0, 256, stream)
    stream.synchronize()


def test_what_goes_to_the_gpu_comes_back_and_poison_is_nan(gpu: CudaDevice) -> None:
    stream, sent = gpu.stream(), gpu.pinned((3, 5), np.float32)
    sent[...] = np.arange(15).reshape(3, 5)
    memory = gpu.allocate(sent.nbytes)
    gpu.upload(memory.address, sent, stream)
    back = gpu.pinned((3, 5), np.float32)
    gpu.download(back, memory.address, stream)
    stream.synchronize()
    np.testing.assert_array_equal(back, sent)
    gpu.fill(memory.address, 0xFF, memory.nbytes, stream)
    gpu.download(back, memory.address, stream)
    stream.synchronize()
    assert np.isnan(back).all()


def test_a_kernel_that_is_not_there_is_an_error_of_that_call_only(gpu: CudaDevice) -> None:
    stream = gpu.stream()
    with pytest.raises(EngineError, match="launching nonsense failed"):
        gpu.launch("nonsense", 1, [], stream)
    stream.synchronize()


def test_an_illegal_address_loses_the_gpu_for_the_whole_process(gpu: CudaDevice) -> None:
    """In a process of its own, which it costs."""
    code = """
import numpy as np
from core.errors import DeviceLost
from engines.runtime import cuda, kernels
gpu = cuda.first_device()
gpu.load_kernels(kernels.compile_for(gpu.identity.architecture))
stream = gpu.stream()
numbers = [np.float32(0)] * 4
gpu.launch("normalise", 256, [np.uint64(64), np.int64(256), *numbers], stream)  # address 64 is nobody's
for call in (stream.synchronize, lambda: gpu.allocate(256), gpu.stream, stream.synchronize):
    try:
        call()
    except DeviceLost as lost:
        assert "must end" in lost.remedy()
    else:
        raise SystemExit("the GPU goes on after an illegal address")
print("lost, and said so")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "lost, and said so" in done.stdout, done.stderr[-2000:]
    gpu.stream().synchronize()  # this process still has it
