"""Trained networks → a bundle, its thresholds and evidence still to come.

    python -m engines.reference.pack stages12 --from var/reference --into var/reference/draft     to mine candidates
    python -m engines.reference.pack whole    --from var/reference --into var/reference/bundle    to be judged
    python -m engines.reference.pack verify   --from var/reference/bundle                         golden cases, here
    python -m engines.reference.pack card     --from var/reference --bundle CALIBRATED --into NEW    its evidence told
    python -m engines.reference.pack again    --from OLD --into NEW                               needs no training
    python -m engines.reference.pack golden   --from OLD --into NEW                               GOLDEN's people anew

`whole` leaves out networks of the third stage that had nothing to learn from, and says so. `again` makes a finished
bundle anew with today's model card and licence, its memory measured again; networks, thresholds, evidence and golden
cases stay. `golden` changes those last alone: a threshold that moves can come to lie beside a score. What a bundle may
claim is written into it by `onescan-engines calibrate`, from an evaluation on patients that took no part in any of
this; `card` then writes the model card anew, with that evidence in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core import durable
from core.errors import EngineError
from core.finding import Cancer
from core.volume import Geometry, Volume
from engines import volumefile
from engines.bundle import Bundle, Content, open_bundle, write_bundle
from engines.cascade import Analysis, Cascade, PatientContext
from engines.manifest import GoldenAnswer, GoldenCase, GoldenOrgan, ManifestDraft, Network
from engines.measuring.memory import with_memory
from engines.parity import COVERAGE, run_golden
from engines.phantom import Kernel, Person, Scan, build, render, sample_person
from engines.reference import journal
from engines.reference.card import card
from engines.reference.manifest import draft
from engines.reference.recipes import CHARACTERISERS, RECIPES, CharacteriserRecipe, Recipe
from engines.runtime.choice import choose
from engines.runtime.onnx import OnnxRuntime

VERSION = "0.2.0"
MEMORY_RUNS = 3
_SPACING_MM = (4.0, 2.5, 2.5)
GOLDEN: dict[str, tuple[int, tuple[Cancer, ...]]] = {
    "seven-cancers": (4_900_093, tuple(Cancer)),
    "healthy": (4_900_050, ()),
}
"""Golden cases: seed, and which cancers, 40 mm large. No score lies near a threshold: precisions move them."""
REPOSITORY = Path(__file__).resolve().parents[2]
LICENCE = Content("licence.txt", "licence", REPOSITORY / "LICENSE")
CARD = "model-card.md"
TEXTS = (LICENCE, Content(CARD, "model_card", REPOSITORY / "docs" / "model-card.md"))
"""Of the shipped bundle."""


def golden_input(seed: int, cancers: Sequence[Cancer]) -> tuple[Person, Volume]:
    """A whole torso at a usual dose's tenth of noise and coarse voxels: small enough to ship."""
    person = sample_person(seed, dict.fromkeys(cancers, 1), diameter_mm=40.0)
    scan = Scan(_SPACING_MM, None, kernel=Kernel.SOFT, dose=30.0)
    return person, without_air(render(build(person), scan).volume)


def without_air(volume: Volume, keep: int = 6) -> Volume:
    """The rows of a volume that hold the body, and `keep` more on either side: noise in air does not compress."""
    held = np.flatnonzero((volume.hu > -500).any(axis=(0, 2)))
    first, last = max(0, int(held[0]) - keep), int(held[-1]) + 1 + keep
    hu, old = np.ascontiguousarray(volume.hu[:, first:last]), volume.geometry
    x, y, z = (float(v) for v in old.to_patient((0, first, 0)))
    slices, rows, columns = hu.shape
    return Volume(hu, Geometry((slices, rows, columns), old.spacing_mm, (x, y, z), old.axes))


def golden_case(name: str, person: Person, analysis: Analysis) -> GoldenCase:
    """What the cascade answered, as the expectation of every device; tolerances leave room for bf16."""
    return GoldenCase(
        name=name,
        input=f"golden-{name}.npz",
        age_years=person.age_years,
        sex=person.sex,
        answers=tuple(
            GoldenAnswer(
                cancer=a.cancer,
                verdict=a.verdict,
                reason=a.reason,
                score=None if a.score is None else round(a.score, 4),
                score_tolerance=0.05,
            )
            for a in analysis.answers
        ),
        organs=tuple(
            GoldenOrgan(organ=organ, volume_ml=round(ml, 1), tolerance_ml=round(max(0.05 * ml, 8), 1))
            for organ, ml in analysis.organs_ml.items()
        ),
    )


def exported(trained: Path, recipes: Sequence[Recipe | CharacteriserRecipe], scratch: Path) -> list[Content]:
    """The ONNX files, each compared with torch before its weights are rounded and after."""
    from engines.reference import export  # torch: `again` and `verify` do without

    contents = []
    durable.make_folder(scratch)
    for recipe in recipes:
        model = export.load_trained(recipe, trained / recipe.name)
        path, content = scratch / f"{recipe.name}.onnx", export.to_onnx(model, recipe)
        differences = []
        for form, within in ((content, export.EXACT), (export.compact(content), export.COMPACT)):
            durable.write_bytes(path, form)
            differences.append(f"{export.check_against_torch(model, recipe, path, within):.1e}")
        print(f"{recipe.name}: {path.stat().st_size} bytes, ONNX = torch within {', rounded '.join(differences)}")
        contents.append(Content(path.name, "network", path))
    return contents


def looking(trained: Path) -> list[CharacteriserRecipe]:
    """The recipes of the third stage whose networks were trained."""
    there = [recipe for recipe in CHARACTERISERS.values() if (trained / recipe.name / "checkpoint.pt").exists()]
    for name in sorted(CHARACTERISERS.keys() - {recipe.name for recipe in there}):
        print(f"{name}: left out, it has not been trained")
    return there


def pack(trained: Path, into: Path, whole: bool, version: str = VERSION, memory_runs: int = MEMORY_RUNS) -> Bundle:
    """Export, answer the golden cases in fp32, write the bundle. An existing bundle in `into` is replaced."""
    third = looking(trained) if whole else []
    recipes: list[Recipe | CharacteriserRecipe] = [*RECIPES.values(), *third]
    names = [recipe.name for recipe in third]
    contents = [*exported(trained, recipes, trained / "onnx"), LICENCE]
    golden: tuple[GoldenCase, ...] = ()
    networks: tuple[Network, ...] | None = None
    if whole:
        first = trained / "without-golden"
        durable.remove_tree(first)
        unmeasured = write_bundle(first, draft(version, names), contents)
        golden, inputs = _golden(unmeasured)
        networks = with_memory(unmeasured, say=print, runs=memory_runs)
        contents += inputs
    made = draft(version, names, golden, networks)
    if whole:
        contents += [_card(made, trained), journal.gather(trained, [network.id for network in made.networks])]
    durable.remove_tree(into)
    durable.make_folder(into.parent)
    return write_bundle(into, made, contents)


def with_card(calibrated: Bundle, trained: Path, into: Path, version: str) -> Bundle:
    """The bundle in `into`, which must not exist, with a card that tells of its evidence, and another version."""
    fields = calibrated.manifest.model_dump(exclude={"files"})
    made = ManifestDraft.model_validate({**fields, "version": version})
    contents = [content for content in calibrated.contents() if content.name != CARD]
    return write_bundle(into, made, [*contents, _card(made, trained)])


def with_golden(old: Bundle, into: Path, version: str) -> Bundle:
    """A finished bundle in `into`, which must not exist: only version and golden cases differ, answered in fp32."""
    golden, inputs = _golden(old)
    fields = old.manifest.model_dump(exclude={"files"})
    made = ManifestDraft.model_validate({**fields, "version": version, "golden": golden})
    kept = [content for content in old.contents() if content.role != "golden"]
    return write_bundle(into, made, [*kept, *inputs])


def _golden(bundle: Bundle) -> tuple[tuple[GoldenCase, ...], list[Content]]:
    """The golden cases with this bundle's answers in fp32, and their volumes."""
    cascade = Cascade(bundle, OnnxRuntime(1))
    people = {name: golden_input(*drawn) for name, drawn in GOLDEN.items()}
    cases = tuple(_answered(name, *drawn, cascade) for name, drawn in people.items())
    return cases, [Content(f"golden-{n}.npz", "golden", volumefile.to_bytes(v)) for n, (_, v) in people.items()]


def _card(made: ManifestDraft, trained: Path) -> Content:
    return Content(CARD, "model_card", card(made, trained).encode())


def again(old: Bundle, into: Path, version: str) -> Bundle:
    """A finished bundle anew in `into`, which must not exist: only version, texts and memory differ."""
    texts = {content.name: content for content in TEXTS}
    contents = [texts.get(content.name, content) for content in old.contents()]
    fields = old.manifest.model_dump(exclude={"files"})
    changed = {**fields, "version": version, "networks": with_memory(old, say=print, runs=MEMORY_RUNS)}
    return write_bundle(into, ManifestDraft.model_validate(changed), contents)


def verify(bundle: Bundle, uncovered: bool = False) -> None:
    """The golden cases on this machine's fastest runtime; EngineError where one differs, or (not if `uncovered`) a
    cancer is answered in none."""
    outcomes = run_golden(bundle, choose(threads=1, networks=bundle.networks).runtime)
    for outcome in outcomes:
        print(f"golden case {outcome.case}: {'same' if outcome.passed else 'DIFFERS'}: {outcome.detail}")
    if failed := [o.case for o in outcomes if not o.passed and not (uncovered and o.case == COVERAGE)]:
        raise EngineError(
            f"this machine does not get what the golden cases of {bundle.folder} say: {', '.join(failed)}",
            remedy="Compare the precisions with `onescan-engines compare`: a score near a threshold moves with bf16.",
        )


def _answered(name: str, person: Person, volume: Volume, cascade: Cascade) -> GoldenCase:
    analysis = cascade.analyse(volume, PatientContext(person.age_years, person.sex))
    for answer in analysis.answers:
        print(f"golden case {name}: {answer.cancer.value} {answer.verdict.value} {answer.score} {answer.detail}")
    return golden_case(name, person, analysis)


def main() -> None:
    """Assemble a bundle; see the module's docstring."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("what", choices=("stages12", "whole", "verify", "card", "again", "golden"))
    parser.add_argument("--from", dest="trained", type=Path, required=True, help="folder of training, or a bundle")
    parser.add_argument("--bundle", type=Path, help="card: the calibrated bundle")
    parser.add_argument("--version", default=VERSION)
    parser.add_argument("--into", type=Path)
    parser.add_argument("--memory-runs", type=int, default=MEMORY_RUNS, help="measurements of what a network takes")
    parser.add_argument("--uncovered", action="store_true", help="verify: also without an answer for every cancer")
    a = parser.parse_args()
    if a.what == "verify":
        verify(open_bundle(a.trained), a.uncovered)
        return
    if a.into is None:
        parser.error("--into is missing")
    if a.what == "card":
        if a.bundle is None:
            parser.error("--bundle is missing")
        bundle = with_card(open_bundle(a.bundle), a.trained, a.into, a.version)
    elif a.what == "again":
        bundle = again(open_bundle(a.trained), a.into, a.version)
    elif a.what == "golden":
        bundle = with_golden(open_bundle(a.trained), a.into, a.version)
    else:
        bundle = pack(a.trained, a.into, a.what == "whole", a.version, a.memory_runs)
    print(f"{a.into}: bundle {open_bundle(a.into).digest}, {sum(f.size for f in bundle.manifest.files)} bytes")


if __name__ == "__main__":
    main()
