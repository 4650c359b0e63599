"""Networks on an NVIDIA GPU: plans that were built for it (`engines.build`), run by TensorRT.

A network is found by its file's digest. It runs only by a plan that agreed with the reference, unless `trial` says that
this is the comparison. The output buffer is poisoned before each run and looked at after it.

All networks of a runtime share the scratch memory between a network's image and its logits: they run one after another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from core.errors import EngineError
from core.volume import Index
from engines.runtime import Axes, Image, Network, Resampling, Tensor, Window, kernels, slabs
from engines.runtime.device import POISON, Device, Execution, Memory
from engines.runtime.images import DeviceImage
from engines.runtime.plans import PlanKey, Shelf, StoredPlan
from engines.runtime.ring import DevicePass
from engines.runtime.trust import check_image, check_logits

_FLOAT = 4  # bytes


class Library(Protocol):
    """What opens plans: `engines.runtime.tensorrt` as a module, or a test's."""

    @property
    def NAME(self) -> str:
        """Name and version: plans of another one are not opened."""

    def open_plan(self, content: bytes) -> Execution: ...


class TensorRtRuntime:
    """tf32: float32 networks may be computed in TF32. trial: also run plans that have not agreed yet."""

    name = "tensorrt"

    def __init__(
        self, device: Device, library: Library, shelf: Shelf, *, tf32: bool = True, trial: bool = False
    ) -> None:
        self.device = device
        self.shelf = shelf
        self._library = library
        self._tf32 = tf32
        self._trial = trial
        self._precisions: set[str] = set()
        self._scratch: Memory | None = None
        self._has_kernels = False

    @property
    def precision(self) -> str:
        """Of the plans loaded so far: the networks' files decide it."""
        return "+".join(sorted(self._precisions)) or ("tf32" if self._tf32 else "fp32")

    def key(self, onnx: bytes) -> PlanKey:
        """What a plan for this ONNX file must have been built for."""
        return PlanKey(hashlib.sha256(onnx).hexdigest(), self._library.NAME, self.device.identity, self._tf32)

    def load(self, onnx: Path) -> GpuNetwork:
        """The network in an ONNX file. EngineError if there is no plan for it that may run here."""
        try:
            content = onnx.read_bytes()
        except OSError as error:
            raise EngineError(f"can't read {onnx.name[:12]}: {error.strerror}") from error
        key = self.key(content)
        plans = [plan for plan in self.shelf.every(key) if self._trial or plan.agreed is not None]
        if not plans:
            built = any(True for _ in self.shelf.every(key))
            what = "the plan has not agreed with the reference" if built else "there is no plan"
            raise EngineError(
                f"{what} for network {onnx.name[:12]} on {self.device.identity.name} with {self._library.NAME}",
                remedy="Build and compare: `onescan-engines build`; or choose another runtime.",
            )
        self._precisions |= {plan.precision for plan in plans}
        return GpuNetwork(self, onnx.name[:12], key)

    def resample(
        self,
        scan: Resampling,
        axes: Axes,
        extra: npt.NDArray[np.float32] | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> DeviceImage:
        """A scan on a network's grid, in the GPU's memory."""
        self._need_kernels()
        return slabs.resample(self.device, scan, axes, extra, check)

    def open_pass(self, networks: Sequence[Network], image: Image, window: Window) -> DevicePass:
        """A sliding window whose logits stay on the device until they are final."""
        self._need_kernels()
        if not isinstance(image, DeviceImage):
            raise EngineError("an image of another runtime does not lie in the GPU's memory")
        executions = []
        for network in networks:
            assert isinstance(network, GpuNetwork)
            executions.append(network.execution(window.size))
        return DevicePass(self.device, executions, image, window)

    def _need_kernels(self) -> None:
        if not self._has_kernels:  # compiled now if no build has done it
            self.device.load_kernels(kernels.compiled(self.shelf.folder, self.device.identity.architecture))
            self._has_kernels = True

    def scratch(self, nbytes: int) -> Memory:
        """Memory for what lies between image and logits, shared by all networks; it grows to the largest need."""
        if self._scratch is None or self._scratch.nbytes < nbytes:
            self._scratch = None  # first free, then allocate: there may be no room for both
            self._scratch = self.device.allocate(nbytes)
        return self._scratch

    def plan_for(self, key: PlanKey, shape: Index) -> StoredPlan:
        """The plan that runs images of this shape (z, y, x). EngineError if none was built for it."""
        plan = self.shelf.find(key, shape, agreed=not self._trial)
        if plan is None:
            raise EngineError(
                f"no plan was built for an image of {shape} voxels; there are plans for "
                + ", ".join(f"{p.profile.least} to {p.profile.most}" for p in self.shelf.every(key)),
                remedy="The scan is larger than networks were built for; read it by eye.",
            )
        return plan

    def open(self, plan: StoredPlan) -> Execution:
        """A plan, ready to run. EngineError if it is damaged."""
        content = self.shelf.read(plan)
        if content is None:
            raise EngineError(f"plan {plan.path.name} is damaged", remedy="Build it again: `onescan-engines build`.")
        return self._library.open_plan(content)


class GpuNetwork:
    """One network; a plan is opened when the first image needs it, and stays open."""

    def __init__(self, runtime: TensorRtRuntime, name: str, key: PlanKey) -> None:
        self.runtime = runtime
        self._name, self._key = name, key
        self._plans: dict[Index, StoredPlan] = {}
        self._open: dict[Path, Execution] = {}
        self._buffers: _Buffers | None = None

    def prepare(self, shape: Index) -> None:
        """Open the plan for images of this shape and take its memory."""
        execution = self.execution(shape)
        full = (1, execution.input_channels, *shape)
        self.runtime.scratch(execution.scratch_bytes(full))
        if self._buffers is None or not self._buffers.fit(full):
            self._buffers = None
            self._buffers = _Buffers(self.runtime.device, full, execution.logits_shape(full))

    def run(self, image: Tensor) -> Tensor:
        """Logits of an image, out of a buffer that was poisoned before."""
        check_image(image)
        z, y, x = image.shape[2:]
        execution = self.execution((z, y, x))
        if image.shape[1] != execution.input_channels:
            raise EngineError(f"network {self._name} takes {execution.input_channels} channels, not {image.shape[1]}")
        self.prepare((z, y, x))
        assert self._buffers is not None
        scratch = self.runtime.scratch(execution.scratch_bytes(image.shape))
        logits = self._buffers.run(execution, image, scratch)
        check_logits(logits, image)
        return logits

    def execution(self, shape: Index) -> Execution:
        """The plan that runs images of this shape, open."""
        if shape not in self._plans:
            self._plans[shape] = self.runtime.plan_for(self._key, shape)
        plan = self._plans[shape]
        if plan.path not in self._open:
            self._open[plan.path] = self.runtime.open(plan)
        return self._open[plan.path]


class _Buffers:
    """Memory for runs on one shape, host and device."""

    def __init__(self, device: Device, image: tuple[int, ...], logits: tuple[int, ...]) -> None:
        self._device = device
        self._stream = device.stream()
        self._shape = image
        self._image, self._logits = device.pinned(image, np.float32), device.pinned(logits, np.float32)
        self._image_memory = device.allocate(self._image.nbytes)
        self._logits_memory = device.allocate(self._logits.nbytes)

    def fit(self, shape: tuple[int, ...]) -> bool:
        return shape == self._shape

    def run(self, execution: Execution, image: Tensor, scratch: Memory) -> Tensor:
        np.copyto(self._image, image)
        self._device.upload(self._image_memory.address, self._image, self._stream)
        self._device.fill(self._logits_memory.address, POISON, self._logits_memory.nbytes, self._stream)
        addresses = self._image_memory.address, self._logits_memory.address
        execution.enqueue(self._shape, *addresses, scratch, self._stream)
        self._device.download(self._logits, self._logits_memory.address, self._stream)
        self._stream.synchronize()
        return np.array(self._logits)  # the pinned one is written again by the next run
