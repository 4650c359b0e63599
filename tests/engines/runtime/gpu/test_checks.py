"""TensorRT says no by False, None, 0 or -1: each becomes an EngineError before anybody looks at a buffer.

Engine and context are doubles with the methods that `TensorRtExecution` calls (`test_names.py` proves that TensorRT has
them); that they then run is for test_execution.py and a GPU.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from core.errors import EngineError

tensorrt = pytest.importorskip("engines.runtime.tensorrt", reason="no TensorRT here", exc_type=ImportError)
trt = tensorrt.trt
SHAPE = (1, 1, 8, 8, 8)
STREAM = SimpleNamespace(handle=77)


class Context:
    """answers: what methods return instead of what they return when all is well."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def method(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            well = {"get_tensor_shape": (1, 2, 8, 8, 8), "update_device_memory_size_for_shapes": 4096}
            return self.answers.get(name, well.get(name, True))

        return method


class Engine:
    num_io_tensors = 2
    device_memory_size_v2 = 8192

    def __init__(self, context: Context | None, **changes: Any) -> None:
        self.context = context
        self.names = changes.get("names", ("image", "logits"))
        self.dtype = changes.get("dtype", trt.DataType.FLOAT)
        self.device_memory_size_v2 = changes.get("memory", 8192)

    def get_tensor_name(self, i: int) -> str:
        return str(self.names[i])

    def get_tensor_dtype(self, name: str) -> Any:
        return self.dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (1, 3, -1, -1, -1)

    def create_execution_context(self, strategy: Any) -> Context | None:
        assert strategy == trt.ExecutionContextAllocationStrategy.USER_MANAGED
        return self.context


def execution(context: Context | None, **changes: Any) -> Any:
    return tensorrt.TensorRtExecution(Engine(context, **changes), tensorrt._messages(), None)


def scratch(nbytes: int = 4096) -> Any:
    return SimpleNamespace(address=1 << 20, nbytes=nbytes)


def test_a_run_sets_shape_memory_and_addresses_before_it_begins() -> None:
    context = Context()
    runs = execution(context)
    assert runs.input_channels == 3
    assert runs.logits_shape(SHAPE) == (1, 2, 8, 8, 8)
    runs.enqueue(SHAPE, 1000, 2000, scratch(), STREAM)
    runs.enqueue(SHAPE, 1000, 2000, scratch(), STREAM)
    again = context.calls[-4:]
    assert [call[0] for call in again] == [
        "set_device_memory",
        "set_tensor_address",
        "set_tensor_address",
        "execute_async_v3",
    ]
    del context.calls[-4:]
    assert [call for call in context.calls if call[0] != "get_tensor_shape"] == [
        ("set_input_shape", "image", SHAPE),
        ("update_device_memory_size_for_shapes",),
        ("set_device_memory", 1 << 20, 4096),
        ("set_tensor_address", "image", 1000),
        ("set_tensor_address", "logits", 2000),
        ("execute_async_v3", 77),
    ]


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ({"set_input_shape": False}, "was not built for an image"),
        ({"get_tensor_shape": (1, 2, -1, -1, -1)}, "can't tell the logits' shape"),
        ({"update_device_memory_size_for_shapes": 0}, "can't tell the memory"),
        ({"update_device_memory_size_for_shapes": 5000}, "too few"),
        ({"set_tensor_address": False}, "does not take the address of `image`"),
        ({"execute_async_v3": False}, "did not run the network"),
    ],
)
def test_every_no_is_an_error(answers: dict[str, Any], complaint: str) -> None:
    runs = execution(Context(**answers))

    def run() -> None:
        runs.logits_shape(SHAPE)
        runs.enqueue(SHAPE, 1000, 2000, scratch(), STREAM)

    with pytest.raises(EngineError, match=complaint):
        run()


def test_after_a_shape_that_was_refused_the_next_run_sets_its_own() -> None:
    context = Context()
    runs = execution(context)
    runs.logits_shape(SHAPE)
    context.answers["set_input_shape"] = False
    with pytest.raises(EngineError):
        runs.logits_shape((1, 1, 9, 9, 9))
    context.answers.clear()
    context.calls.clear()
    runs.scratch_bytes(SHAPE)
    assert context.calls[0] == ("set_input_shape", "image", SHAPE)


def test_a_network_without_scratch_memory_is_no_error() -> None:
    runs = execution(Context(update_device_memory_size_for_shapes=0), memory=0)
    assert runs.scratch_bytes(SHAPE) == 0


@pytest.mark.parametrize(
    ("context", "changes", "complaint"),
    [
        (None, {}, "no execution context"),
        (Context(), {"names": ("image", "output")}, "tensors image, output"),
        (Context(), {"dtype": trt.DataType.HALF}, "not float32"),
    ],
)
def test_a_plan_that_is_not_ours_is_refused(context: Context | None, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(EngineError, match=complaint):
        execution(context, **changes)


def test_what_tensorrt_logged_first_stands_in_the_error() -> None:
    class Complaining(Context):
        def execute_async_v3(self, handle: int) -> bool:
            messages = tensorrt._LOGGER
            messages.log(trt.ILogger.WARNING, "never mind")
            messages.log(trt.ILogger.ERROR, "illegal memory access")
            messages.log(trt.ILogger.ERROR, "and so on")
            return False

    with pytest.raises(EngineError, match="illegal memory access"):
        execution(Complaining()).enqueue(SHAPE, 1000, 2000, scratch(), STREAM)
