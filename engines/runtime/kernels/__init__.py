"""CUDA kernels: their sources, and compiled for one GPU.

They are compiled on the device that runs them (`onescan-engines build` does it once, in a second): a cubin made for the
very GPU needs no compiler in the driver, and PTX of a newer CUDA than the driver's would not load on a Jetson at all.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from core import durable
from core.errors import EngineError

SOURCES = ("arithmetic.h", "kernels.cu")
_FLAGS = ("-std=c++17", "-O3", "--fmad=false")  # arithmetic.h says why no fused multiply-add
_USUAL_PLACES = ("/usr/local/cuda/bin", "/usr/local/bin", "/usr/bin")
_TIMEOUT_S = 300


def find_nvcc() -> Path | None:
    """The CUDA compiler, or None: from CUDA_HOME, the path, or where JetPack and CUDA put it."""
    places = [os.path.join(os.environ["CUDA_HOME"], "bin")] if "CUDA_HOME" in os.environ else []
    found = shutil.which("nvcc", path=os.pathsep.join([*places, os.environ.get("PATH", ""), *_USUAL_PLACES]))
    return Path(found) if found else None


def digest() -> str:
    """SHA-256 over the sources and the flags, hex: compiled kernels of another digest are not these."""
    folder = Path(__file__).parent
    return hashlib.sha256(
        b"\0".join([*((folder / name).read_bytes() for name in SOURCES), *map(str.encode, _FLAGS)])
    ).hexdigest()


def compile_for(architecture: str) -> bytes:
    """A cubin of all kernels for one architecture, such as sm_87. EngineError with the compiler's words."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise EngineError(
            "no nvcc here to compile the GPU's kernels",
            remedy="Install the CUDA compiler (on a Jetson: `apt-get install cuda-nvcc-12-6`).",
        )
    with tempfile.TemporaryDirectory(prefix="onescan-kernels-") as folder:
        target = Path(folder) / "kernels.cubin"
        source = Path(__file__).parent / "kernels.cu"
        command = [str(nvcc), *_FLAGS, f"-arch={architecture}", "--cubin", "-o", str(target), str(source)]
        try:
            run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineError(f"nvcc did not run: {error}") from error
        if run.returncode != 0:
            raise EngineError(f"nvcc can't compile the kernels for {architecture}: {run.stderr.strip()[-500:]}")
        return target.read_bytes()


def compiled(folder: Path, architecture: str) -> bytes:
    """The cubin for `architecture` out of `folder`; compiled and kept there, durably, if it is missing."""
    path = folder / f"kernels-{architecture}-{digest()[:16]}.cubin"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        image = compile_for(architecture)
        durable.make_folder(folder)
        durable.write_bytes(path, image)
        return image
