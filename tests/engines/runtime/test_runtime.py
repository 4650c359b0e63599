"""Both runtimes agree, and neither hands on an output that can't be trusted."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from core.errors import EngineError
from engines.runtime import Network, Runtime, Tensor
from engines.runtime.choice import available_cores, choose
from engines.runtime.trust import check_logits, poisoned

from . import networks

RUNTIMES = [("openvino", "fp32"), ("openvino", "auto"), ("onnx", "fp32")]


@pytest.fixture(params=RUNTIMES, ids=lambda p: "-".join(p))
def runtime(request: pytest.FixtureRequest) -> Runtime:
    preference, precision = request.param
    return choose(preference, threads=1, precision=precision).runtime


@pytest.fixture
def load(runtime: Runtime, tmp_path: Path) -> Callable[[bytes], Network]:
    def from_bytes(content: bytes) -> Network:
        path = tmp_path / "0123abcd"  # a blob has no extension
        path.write_bytes(content)
        return runtime.load(path)

    return from_bytes


def image(*shape: int, seed: int = 1) -> Tensor:
    return np.random.default_rng(seed).normal(size=(1, 1, *shape)).astype(np.float32)


def test_a_network_computes_what_its_file_says_at_any_shape(load: Callable[[bytes], Network], runtime: Runtime) -> None:
    network = load(networks.bands((-50, 100), (100, 300)))
    for shape in ((8, 8, 8), (4, 6, 10), (9, 5, 7), (16, 8, 8), (8, 8, 8)):
        x = image(*shape)
        expected = np.concatenate(
            [np.zeros_like(x), 20 * np.minimum(x + 0.5, 1 - x), 20 * np.minimum(x - 1, 3 - x)], axis=1
        )
        tolerance = 0.5 if runtime.precision == "bf16" else 1e-3  # of logits up to 100: bf16 has 8 bits
        np.testing.assert_allclose(network.run(x), expected, atol=tolerance)


def test_openvino_and_onnx_runtime_agree_at_fp32(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(networks.smoothing())
    x = image(12, 10, 8)
    one, other = (choose(p, 1, "fp32").runtime.load(path).run(x) for p in ("openvino", "onnx"))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_view_with_odd_strides_gives_what_its_copy_gives(load: Callable[[bytes], Network]) -> None:
    network = load(networks.smoothing())
    view = image(8, 10, 12).transpose(0, 1, 4, 3, 2)[:, :, ::-1]
    np.testing.assert_array_equal(network.run(view), network.run(view.copy()))


def test_the_same_image_gives_the_same_bits(load: Callable[[bytes], Network]) -> None:
    network = load(networks.smoothing())
    x = image(16, 16, 16)
    assert network.run(x).tobytes() == network.run(x).tobytes()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (networks.zeros(), "zero throughout"),
        (networks.logarithms(), "NaN or infinity"),
        (networks.halving(), "shape|run"),
    ],
    ids=["zeros", "nan", "wrong-shape"],
)
def test_an_output_that_cannot_be_trusted_is_a_failure(
    load: Callable[[bytes], Network], content: bytes, complaint: str
) -> None:
    network = load(content)
    with pytest.raises(EngineError, match=complaint):
        network.run(image(8, 8, 8))


@pytest.mark.parametrize("content", [b"", b"not a network", networks.bands((0, 1))[:-30], networks.misnamed()])
def test_a_file_that_is_no_network_of_ours_is_refused_when_it_is_loaded(
    load: Callable[[bytes], Network], content: bytes
) -> None:
    with pytest.raises(EngineError) as refusal:
        load(content).run(image(8, 8, 8))
    assert refusal.value.remedy()


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((1, 1, 4, 4), np.float32),
        np.zeros((1, 2, 4, 4, 4), np.float32),
        np.zeros((1, 1, 4, 4, 4), np.float64),
        np.full((1, 1, 4, 4, 4), np.nan, np.float32),
        np.full((1, 1, 4, 4, 4), np.inf, np.float32),
    ],
)
def test_an_image_of_the_wrong_kind_is_refused(load: Callable[[bytes], Network], bad: Tensor) -> None:
    with pytest.raises(EngineError):
        load(networks.bands((0, 1))).run(bad)


def test_a_buffer_that_was_not_written_in_full_is_found() -> None:
    x = image(4, 4, 4)
    logits = poisoned((1, 2, 4, 4, 4))
    logits[:, :, :, :, :3] = 1
    with pytest.raises(EngineError, match="not written in full"):
        check_logits(logits, x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [0, 41, 127])
def test_one_element_that_is_no_number_is_found(bad: float, index: int) -> None:
    x = image(4, 4, 4)
    logits = np.linspace(-3e38, 3e38, 128, dtype=np.float32).reshape(1, 2, 4, 4, 4)
    check_logits(logits, x)
    logits.reshape(-1)[index] = bad
    with pytest.raises(EngineError, match="NaN or infinity"):
        check_logits(logits, x)


def test_zero_throughout_is_found_and_one_element_is_enough() -> None:
    x = image(4, 4, 4)
    logits = np.zeros((1, 2, 4, 4, 4), np.float32)
    with pytest.raises(EngineError, match="zero throughout"):
        check_logits(logits, x)
    for value in (1e-30, -1e-30):
        logits[0, 1, 2, 3, 1] = value
        check_logits(logits, x)


def test_a_missing_file_is_an_engine_error(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(EngineError):
        runtime.load(tmp_path / "nothing")


def test_auto_takes_openvino_and_says_why() -> None:
    choice = choose("auto")
    assert choice.runtime.name == "openvino"
    assert "fastest" in choice.why
    assert f" {available_cores()} core" in choice.why
    assert choice.runtime.precision in choice.why


def test_auto_falls_back_to_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    choice = choose("auto", threads=1)
    assert (choice.runtime.name, choice.runtime.precision) == ("onnx", "fp32")
    assert "OpenVINO is not installed" in choice.why


def test_bf16_is_used_exactly_where_the_processor_has_it() -> None:
    flags = Path("/proc/cpuinfo").read_text()
    has_it = "avx512_bf16" in flags or "amx_bf16" in flags
    assert choose("openvino", 1).runtime.precision == ("bf16" if has_it else "fp32")
    assert choose("openvino", 1, "fp32").runtime.precision == "fp32"


def test_the_compile_cache_is_filled_and_used(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(networks.smoothing())
    x = image(8, 8, 8)
    first = choose("openvino", 1, cache=tmp_path / "cache").runtime.load(tmp_path / "blob").run(x)
    assert list((tmp_path / "cache").iterdir())
    again = choose("openvino", 1, cache=tmp_path / "cache").runtime.load(tmp_path / "blob").run(x)
    np.testing.assert_array_equal(first, again)
