"""Run an ONNX model's bytes in each runtime, and say how far two outputs are apart."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnxruntime as ort
import openvino as ov
import pytest
from onnx import ModelProto


def in_onnx_runtime(model: ModelProto, image: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})[0]


def in_openvino(model: ModelProto, image: np.ndarray, hint: str = "f32") -> np.ndarray:
    return compiled(model, image.shape, hint)(image)[0]


def compiled(model: ModelProto, shape: tuple[int, ...], hint: str) -> ov.CompiledModel:
    core = ov.Core()
    network = core.read_model(model.SerializeToString())
    network.reshape(list(shape))
    return core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": 1})


def precisions_of_convolutions(compiled_model: ov.CompiledModel) -> Counter[str]:
    """In which precision OpenVINO really computes each convolution, from the graph that it executes."""
    kinds = ("Convolution", "Deconvolution")
    info = [layer.get_rt_info() for layer in compiled_model.get_runtime_model().get_ordered_ops()]
    return Counter(
        str(entry["runtimePrecision"].astype(str)) for entry in info if entry["layerType"].astype(str) in kinds
    )


def relative_rms(one: np.ndarray, reference: np.ndarray) -> float:
    return float(np.sqrt(np.mean((one - reference) ** 2) / np.mean(reference**2)))


def build_with_tensorrt(model: ModelProto, largest: tuple[int, int, int]) -> int:
    """Bytes of the plan that TensorRT-RTX builds from a strongly typed network, for an Ampere GPU; needs no GPU."""
    found = pytest.importorskip("engines.runtime.tensorrt", reason="no TensorRT here", exc_type=ImportError)
    if "rtx" not in found.NAME:
        pytest.skip("only TensorRT for RTX builds for a GPU that is not there")
    trt = found.trt
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model.SerializeToString()), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM80, 0)
    profile = builder.create_optimization_profile()
    shape = (*tuple(model.graph.input[0].type.tensor_type.shape.dim[i].dim_value for i in (0, 1)), *largest)
    profile.set_shape("image", shape, shape, shape)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return int(plan.nbytes)
