"""The kernels compile for the GPUs we ship on, without spilling, and are the ones that Python launches."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from core.errors import EngineError
from engines.runtime import kernels
from tests.engines.runtime.gpu.simulator import KERNELS

RUNTIME = KERNELS.parent
DEFINED = set(re.findall(r'extern "C" __global__ void (\w+)\(', (KERNELS / "kernels.cu").read_text()))

needs_nvcc = pytest.mark.skipif(kernels.find_nvcc() is None, reason="no nvcc here: kernels are not compiled for a GPU")


def test_python_launches_exactly_the_kernels_that_there_are() -> None:
    python = "".join(path.read_text() for path in RUNTIME.glob("*.py"))
    launched = {name for name in re.findall(r'"([a-z_]+)"', python) if name in DEFINED}
    assert launched == DEFINED
    host = (Path(__file__).with_name("host.cpp")).read_text()
    assert set(re.findall(r"ON_HOST\((\w+)\)", host)) - {"kernel"} == DEFINED


@needs_nvcc
@pytest.mark.parametrize("architecture", ["sm_87", "sm_90"])
def test_the_kernels_compile_for_orin_and_hopper_without_spilling(architecture: str, tmp_path: Path) -> None:
    cubin = kernels.compile_for(architecture)
    assert cubin[:4] == b"\x7fELF"
    for name in DEFINED:
        assert name.encode() in cubin
    command = [str(kernels.find_nvcc()), "-std=c++17", "-O3", "--fmad=false", "-Xptxas", "-v", "--cubin"]
    command += [f"-arch={architecture}", "-Werror", "all-warnings", "-o", str(tmp_path / "kernels.cubin")]
    said = subprocess.run([*command, str(KERNELS / "kernels.cu")], capture_output=True, text=True, check=True).stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert len(spills) == len(DEFINED)
    assert set(spills) == {("0", "0")}


@needs_nvcc
def test_compiled_kernels_are_kept_and_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kernels.compiled(tmp_path / "plans", "sm_87")
    monkeypatch.setattr(kernels, "find_nvcc", lambda: None)
    assert kernels.compiled(tmp_path / "plans", "sm_87") == first
    with pytest.raises(EngineError, match="no nvcc") as missing:
        kernels.compiled(tmp_path / "plans", "sm_90")
    assert "cuda-nvcc" in missing.value.remedy()


@needs_nvcc
def test_what_the_compiler_says_reaches_the_person() -> None:
    with pytest.raises(EngineError, match="sm_1"):
        kernels.compile_for("sm_1")
