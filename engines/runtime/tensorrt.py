"""TensorRT 10.3 to 11.4, and TensorRT for RTX: ONNX to plan, plan to execution. The one module that imports it.

Only names that exist in all of these versions are used (a test proves it against lists of their names). Precision lives
in the ONNX file: the network is strongly typed, so float16 tensors stay float16 and nothing else becomes it. TensorRT
tells of failures by None, False or -1 and a line of log: each is checked, and the line stands in the error.

CUDA is not called here; addresses and streams come from `device` as integers.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.errors import EngineError
from engines.runtime.device import Memory, Shape, Stream
from engines.runtime.plans import Profile
from engines.runtime.trust import INPUT, OUTPUT, check_interface

try:
    import tensorrt as trt
except ImportError:
    try:
        import tensorrt_rtx as trt
    except ImportError:
        import tensorrt_rtx_bindings as trt  # what the other two re-export

log = logging.getLogger(__name__)
NAME = f"{trt.__name__.removesuffix('_bindings')} {trt.__version__}"

Step = Callable[[str, int, int], bool]
"""Phase, steps done and steps in all of it; false to end the build."""


@dataclass(frozen=True)
class Built:
    """What a build gave. content: the plan, or None if `step` ended it. precision: the lowest that the network computes
    in. timing_cache: what was measured so far, also by a build that was ended."""

    content: bytes | None
    precision: str
    timing_cache: bytes


def build(
    onnx: bytes,
    profile: Profile,
    *,
    workspace: int,
    tf32: bool = True,
    timing_cache: bytes = b"",
    step: Step = lambda phase, done, total: True,
    target: str | None = None,
) -> Built:
    """Build a plan for this device. EngineError where the file is no network of ours or TensorRT can't build it.

    workspace: bytes of device memory that one layer may take for itself. tf32: float32 convolutions may use TF32.
    target: with TensorRT for RTX another GPU's architecture, such as SM80; then no GPU is needed.
    """
    monitor = _Monitor(step)  # outlives everything below that knows it, as TensorRT asks
    return _build(onnx, profile, workspace, tf32, timing_cache, monitor, target)


def _build(
    onnx: bytes,
    profile: Profile,
    workspace: int,
    tf32: bool,
    timing_cache: bytes,
    monitor: _Monitor,
    target: str | None,
) -> Built:
    messages = _messages()
    builder: trt.Builder = trt.Builder(messages)
    parsed = _Parsed(builder, onnx, messages)
    config = _configured(builder, workspace, tf32, timing_cache)
    config.progress_monitor = monitor
    _set_profile(builder, config, parsed.network, profile)
    if target is not None:
        _set_target(config, target)
    plan: trt.IHostMemory | None = builder.build_serialized_network(parsed.network, config)
    measured = _measured(config)
    if plan is None and not monitor.ended:
        raise EngineError(f"TensorRT can't build the network: {messages.worst()}", remedy=_CANT_BUILD)
    return Built(None if plan is None else bytes(plan), _precision(parsed.network, tf32), measured)


def open_plan(content: bytes) -> TensorRtExecution:
    """A plan, ready to run on the current CUDA context's device. EngineError if it was built for another."""
    messages = _messages()
    runtime: trt.Runtime = trt.Runtime(messages)
    engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise EngineError(f"TensorRT does not take the plan: {messages.worst()}", remedy=_BUILD_AGAIN)
    return TensorRtExecution(engine, messages, runtime)


_CANT_BUILD = "See `onescan-engines build --help`; or choose another runtime for this bundle."
_BUILD_AGAIN = "Build the plans again: `onescan-engines build`."


class TensorRtExecution:
    """A plan with its execution context. Satisfies `device.Execution`. Memory comes from the caller."""

    def __init__(self, engine: trt.ICudaEngine, messages: _Messages, runtime: trt.Runtime) -> None:
        self._engine, self._messages, self._runtime = engine, messages, runtime
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        if sorted(names) != sorted((INPUT, OUTPUT)):
            raise EngineError(f"the plan has tensors {', '.join(names)}", remedy=_BUILD_AGAIN)
        for name in names:
            if engine.get_tensor_dtype(name) != trt.DataType.FLOAT:
                raise EngineError(f"`{name}` of the plan is not float32", remedy=_BUILD_AGAIN)
        self.input_channels = int(engine.get_tensor_shape(INPUT)[1])
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context: trt.IExecutionContext | None = engine.create_execution_context(strategy)
        if context is None:
            raise EngineError(f"TensorRT gives no execution context: {messages.worst()}")
        self._context = context
        self._shape: Shape | None = None
        self._needed: int | None = None  # scratch bytes at this shape

    def logits_shape(self, shape: Shape) -> Shape:
        """Shape of the logits for an image of `shape`. EngineError if the plan was not built for it."""
        context: trt.IExecutionContext = self._context
        self._set_shape(shape)
        logits = tuple(int(n) for n in context.get_tensor_shape(OUTPUT))
        if any(n < 1 for n in logits):
            raise EngineError(f"TensorRT can't tell the logits' shape for an image of {shape}: {logits}")
        return logits

    def scratch_bytes(self, shape: Shape) -> int:
        """Device memory for what lies between image and logits of this shape."""
        context: trt.IExecutionContext = self._context
        engine: trt.ICudaEngine = self._engine
        self._set_shape(shape)
        if self._needed is None:
            needed = int(context.update_device_memory_size_for_shapes())
            if needed == 0 and engine.device_memory_size_v2 > 0:
                raise EngineError(f"TensorRT can't tell the memory for an image of {shape}: {self._messages.worst()}")
            self._needed = needed
        return self._needed

    def enqueue(self, shape: Shape, image: int, logits: int, scratch: Memory, stream: Stream) -> None:
        """Run on `stream`. EngineError if TensorRT refuses; what goes wrong later, the stream tells."""
        context: trt.IExecutionContext = self._context
        if scratch.nbytes < self.scratch_bytes(shape):
            raise EngineError(f"{scratch.nbytes} bytes of scratch memory are too few for an image of {shape}")
        context.set_device_memory(scratch.address, scratch.nbytes)
        for name, address in ((INPUT, image), (OUTPUT, logits)):
            if not context.set_tensor_address(name, address):
                raise EngineError(f"TensorRT does not take the address of `{name}`: {self._messages.worst()}")
        if not context.execute_async_v3(stream.handle):
            raise EngineError(f"TensorRT did not run the network: {self._messages.worst()}")

    def _set_shape(self, shape: Shape) -> None:
        context: trt.IExecutionContext = self._context
        if shape == self._shape:
            return
        self._shape = self._needed = None
        if not context.set_input_shape(INPUT, shape):
            raise EngineError(f"the plan was not built for an image of {shape[2:]}", remedy=_BUILD_AGAIN)
        self._shape = shape


class _Parsed:
    """A network definition, together with the parser that owns its weights."""

    def __init__(self, builder: trt.Builder, onnx: bytes, messages: _Messages) -> None:
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network: trt.INetworkDefinition = builder.create_network(flags)
        self._parser: trt.OnnxParser = trt.OnnxParser(network, messages)
        if not self._parser.parse(onnx):
            raise EngineError(f"TensorRT can't read the network: {_complaints(self._parser)}", remedy=_CANT_BUILD)
        inputs: list[trt.ITensor] = [network.get_input(i) for i in range(network.num_inputs)]
        outputs: list[trt.ITensor] = [network.get_output(i) for i in range(network.num_outputs)]
        check_interface([(t.name, len(t.shape)) for t in inputs], [(t.name, len(t.shape)) for t in outputs])
        for tensor in (*inputs, *outputs):
            if tensor.dtype != trt.DataType.FLOAT:
                raise EngineError(f"`{tensor.name}` is not float32", remedy="Export the network with float32 ports.")
        self.network = network


def _complaints(parser: trt.OnnxParser) -> str:
    errors: list[trt.ParserError] = [parser.get_error(i) for i in range(parser.num_errors)]
    said = [f"node {error.node()}: {error.desc()}" if error.node() >= 0 else error.desc() for error in errors]
    return "; ".join(said)[:500] or "it does not say why"


def _configured(builder: trt.Builder, workspace: int, tf32: bool, timing_cache: bytes) -> trt.IBuilderConfig:
    config: trt.IBuilderConfig = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # RTX measures nothing and says so
        cache: trt.ITimingCache | None = config.create_timing_cache(timing_cache)
        if cache is None or not config.set_timing_cache(cache, False):
            log.warning("the timing cache is of another device or damaged: the build measures anew")
            config.set_timing_cache(config.create_timing_cache(b""), False)
    return config


def _measured(config: trt.IBuilderConfig) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        cache: trt.ITimingCache | None = config.get_timing_cache()
        return b"" if cache is None else bytes(cache.serialize())


def _set_profile(
    builder: trt.Builder, config: trt.IBuilderConfig, network: trt.INetworkDefinition, profile: Profile
) -> None:
    tensor: trt.ITensor = network.get_input(0)
    fixed = tuple(int(n) for n in tensor.shape)
    shapes = [(1, fixed[1], *shape) for shape in (profile.least, profile.best, profile.most)]
    if any(n not in (-1, wanted) for shape in shapes for n, wanted in zip(fixed, shape, strict=True)):
        raise EngineError(f"the network takes images of {fixed}, not {profile.least} to {profile.most}")
    profiles: trt.IOptimizationProfile = builder.create_optimization_profile()
    try:
        profiles.set_shape(INPUT, *shapes)
    except ValueError as error:
        raise EngineError(f"TensorRT does not take images of {profile.least} to {profile.most}: {error}") from error
    if config.add_optimization_profile(profiles) < 0:
        raise EngineError(f"TensorRT does not take images of {profile.least} to {profile.most}")


def _set_target(config: Any, target: str) -> None:
    capability = getattr(trt, "ComputeCapability", None)
    if capability is None or target not in capability.__members__:
        raise EngineError(f"{NAME} can't build for {target}")
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(capability.__members__[target], 0):
        raise EngineError(f"{NAME} does not take {target}")


def _precision(network: trt.INetworkDefinition, tf32: bool) -> str:
    """The lowest precision among the network's tensors."""
    found = set()
    for i in range(network.num_layers):
        layer: trt.ILayer = network.get_layer(i)
        for j in range(layer.num_outputs):
            output: trt.ITensor = layer.get_output(j)
            found.add(output.dtype)
    lowest_first = ((trt.DataType.INT8, "int8"), (trt.DataType.HALF, "fp16"), (trt.DataType.BF16, "bf16"))
    return next((name for dtype, name in lowest_first if dtype in found), "tf32" if tf32 else "fp32")


class _Messages(trt.ILogger):  # type: ignore[misc]
    """TensorRT's log: errors are kept for the exception that follows, warnings go to our log."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        """Called by TensorRT, also from its threads."""
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self._errors.append(message)
            log.error("TensorRT: %s", message)
        elif severity == trt.ILogger.WARNING:
            log.warning("TensorRT: %s", message)

    def worst(self) -> str:
        """The first error since the last time somebody asked: what follows it is mostly its consequence."""
        errors, self._errors = self._errors, []
        return errors[0][:400] if errors else "it does not say why"


_LOGGER = _Messages()


def _messages() -> _Messages:
    """The process's logger, with nothing left of earlier calls: TensorRT keeps the first it gets and ignores others."""
    _LOGGER.worst()
    return _LOGGER


class _Monitor(trt.IProgressMonitor):  # type: ignore[misc]
    """Hands the builder's steps to a callback, which may end the build. TensorRT calls it from several threads."""

    def __init__(self, step: Step) -> None:
        trt.IProgressMonitor.__init__(self)
        self._step = step
        self._totals: dict[str, int] = {}
        self.ended = False

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        self._totals[phase_name] = num_steps

    def step_complete(self, phase_name: str, step: int) -> bool:
        if not self.ended and not self._step(phase_name, step + 1, self._totals.get(phase_name, step + 1)):
            self.ended = True
        return not self.ended

    def phase_finish(self, phase_name: str) -> None:
        self._totals.pop(phase_name, None)
