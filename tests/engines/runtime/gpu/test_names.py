"""Every name of TensorRT that we use exists in 10.3 (JetPack 6), 10.13 (JetPack 7) and 11.4 (desktop).

`tensorrt_names.txt` holds the names that all three have, read from the real bindings. The sources are walked: `trt.X.Y`
wherever it stands, and `name.attribute` wherever `name` is annotated as one of TensorRT's types.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

RUNTIME = Path(__file__).parents[4] / "engines" / "runtime"
COMMON = frozenset(Path(__file__).with_name("tensorrt_names.txt").read_text().split())
LISTS = Path(__file__).parents[5] / "shared" / "tensorrt_api"
_OF_THE_MODULE = {"__name__", "__version__"}


def used_names(source: str) -> set[str]:
    """Dotted names of TensorRT that a module uses."""
    tree = ast.parse(source)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (name := _dotted(node)) and name.startswith("trt."):
            found.add(name.removeprefix("trt."))
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                if (kind := _dotted(base)) and kind.startswith("trt."):
                    found |= set(_called_by_tensorrt(node, kind.removeprefix("trt.")))
        if isinstance(node, ast.FunctionDef):
            found |= set(_on_annotated(node))
    return {name for name in found if name.split(".")[0] not in _OF_THE_MODULE and not name.endswith(".__init__")}


def _called_by_tensorrt(node: ast.ClassDef, kind: str) -> Iterator[str]:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name in ("log", "phase_start", "phase_finish", "step_complete"):
            yield f"{kind}.{item.name}"


def _on_annotated(scope: ast.AST) -> Iterator[str]:
    """Attributes of the names that `scope` annotates with a type of TensorRT, or with a list of it."""
    kinds: dict[str, str] = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.AnnAssign) and (target := _dotted(node.target)):
            kinds.update((target, kind) for kind in _kinds(node.annotation))
        elif isinstance(node, ast.arg) and node.annotation is not None:
            kinds.update((node.arg, kind) for kind in _kinds(node.annotation))
    for node in ast.walk(scope):
        if isinstance(node, ast.comprehension | ast.For):
            sources = node.iter.elts if isinstance(node.iter, ast.Tuple) else [node.iter]
            names = [_dotted(s.value if isinstance(s, ast.Starred) else s) for s in sources]
            kinds.update((_dotted(node.target), kinds[name]) for name in names if name in kinds)
    for node in ast.walk(scope):
        if isinstance(node, ast.Attribute) and (owner := _dotted(node.value)) in kinds:
            yield f"{kinds[owner]}.{node.attr}"


def _kinds(annotation: ast.expr) -> Iterator[str]:
    for node in ast.walk(annotation):
        if isinstance(node, ast.Attribute) and (name := _dotted(node)) and name.startswith("trt."):
            yield name.removeprefix("trt.")


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := _dotted(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def test_every_name_that_we_use_exists_in_all_three_versions() -> None:
    used = used_names((RUNTIME / "tensorrt.py").read_text())
    assert used - COMMON == set()
    # what the walk has to see, so that it can't pass by seeing nothing
    assert {
        "Builder",
        "Builder.build_serialized_network",
        "IBuilderConfig.set_timing_cache",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.set_device_memory",
        "ICudaEngine.create_execution_context",
        "IOptimizationProfile.set_shape",
        "IProgressMonitor.step_complete",
        "ITensor.dtype",
        "ILayer.get_output",
        "MemoryPoolType.WORKSPACE",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "OnnxParser.parse",
        "ParserError.desc",
        "Runtime.deserialize_cuda_engine",
    } <= used
    assert len(used) > 50


@pytest.mark.parametrize(
    "line",
    [
        "trt.BuilderFlag.FP16",
        "def f(config: trt.IBuilderConfig): config.int8_calibrator = None",
        "def f(e: trt.ICudaEngine | None): e.device_memory_size",
        "class M(trt.ILogger):\n    def phase_start(self): ...",
        "def f(): all: list[trt.ILayer] = []; [x.precision for x in all]",
    ],
)
def test_a_name_that_some_version_lacks_would_be_found(line: str) -> None:
    assert used_names(line) - COMMON


def test_only_one_module_uses_tensorrt() -> None:
    others = [path for path in RUNTIME.parent.rglob("*.py") if path != RUNTIME / "tensorrt.py"]
    assert not [path for path in others if used_names(path.read_text())]


def test_the_list_is_what_the_three_versions_have_in_common() -> None:
    if not LISTS.is_dir():
        pytest.skip("the three lists of names are not here: ../shared/tensorrt_api is missing")
    lists = [set((LISTS / f"{version}.txt").read_text().split()) for version in ("10.3", "10.13", "11.4")]
    assert set.intersection(*lists) == COMMON
