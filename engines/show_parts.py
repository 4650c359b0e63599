"""Each part of a manifest in words: (heading, [(what, said), ...]), rich markup in `said`. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape

from engines.manifest import (
    Authorisation,
    Calibration,
    CancerModel,
    CaseLevel,
    Contraindications,
    Evidence,
    GoldenCase,
    Intensity,
    Network,
    Organ,
    Resampling,
    Tiling,
)

Rows = list[tuple[str, str]]
Said = tuple[str, Rows]


def network(spec: Network) -> Said:
    """How a network is fed and read."""
    spacing = " × ".join(f"{mm:g}" for mm in spec.spacing_mm)
    rows = [
        ("grid", f"{spacing} mm along {spec.axes[0]} {spec.axes[1]} {spec.axes[2]}, {_resampling(spec.resampling)}"),
        ("intensity", _intensity(spec.intensity) + (", before resampling" if spec.normalise_first else "")),
        ("sees", _sees(spec)),
        ("averages", _averages(spec)),
        ("gives", f"{spec.activation} of {', '.join(spec.labels)}" + _values(spec)),
        ("memory", f"{spec.bytes_per_voxel} bytes a voxel of its input"),
    ]
    if spec.int8_files:
        rows.append(("int8", f"explicit Q/DQ variants of {_counted(len(spec.int8_files), 'fold')}"))
    return f"{spec.id}, to {spec.stage}", rows


def organ(part: Organ) -> Said:
    """What an organ is made of and where it is searched."""
    rows = [
        ("labels", ", ".join(part.labels)),
        ("found from", f"{part.found_from_ml:g} mL; parts below {part.component_share:.0%} of the largest are dropped"),
        ("searched", f"{part.margin_mm:g} mm beyond it; cut off if the scan ends in {part.cut_from_mm2:g} mm² of it"),
    ]
    return part.name, rows


def cancer(model: CancerModel) -> Said:
    """How a cancer is looked for, when it is called positive, for whom, and on what evidence."""
    rows = [("looks", look) for look in _looks(model)]
    rows.append(("calibration", _calibration(model.calibration)))
    rows.append(("negative", f"below {model.negative_below:.3f}; positive from {model.positive_above:.3f}"))
    rows += _fit_for(model.contraindications)
    rows += [(f"{escape(p.name)}", f"at {p.threshold:.3f}: {evidence(p.evidence)}") for p in model.operating_points]
    return f"{model.cancer.value}, in {model.organ}", rows


def case_level(part: CaseLevel | None) -> Said:
    """What the cancers together do to people without any."""
    if part is None:
        return "not measured", [
            ("", "[yellow]how many healthy people are flagged for one cancer or more is not known[/]")
        ]
    low, high = part.specificity_ci95
    rows = [
        ("specificity", f"{part.specificity:.1%} ({low:.1%} to {high:.1%}) of {part.n_negative} people without cancer"),
        ("budget", f"at most {part.budget:.1%} of them flagged"),
        ("measured on", f"{part.kind}, {escape(part.cohort)}"),
    ]
    return "case level", rows


def golden_case(case: GoldenCase) -> Said:
    """What every device must reproduce."""
    person = ", ".join(
        part for part in (f"{case.age_years} years" if case.age_years is not None else "", case.sex or "") if part
    )
    answers = [
        f"{a.cancer.value} {a.reason.value if a.reason else a.verdict.value}"
        + (f" {a.score:.2f} ± {a.score_tolerance:.2f}" if a.score is not None else "")
        for a in case.answers
    ]
    organs = [f"{o.organ} {o.volume_ml:.0f} ± {o.tolerance_ml:.0f} mL" for o in case.organs]
    rows = [("expects", escape("; ".join(group))) for group in (answers, organs) if group]
    return f"{case.name}" + (f", {person}" if person else ""), rows


def authorisation(part: Authorisation) -> str:
    """Where, by whom, for what, how long."""
    names = ", ".join(name.value for name in part.cancers)
    until = f" to {part.valid_until}" if part.valid_until else ""
    return (
        f"authorised in {part.jurisdiction} for {names}: {escape(part.authority)} {escape(part.reference)}, "
        f"from {part.valid_from}{until}"
    )


def evidence(part: Evidence) -> str:
    """Figures with their intervals, and whose."""
    where = f"{part.kind}, {escape(part.cohort)}"
    if not part.n_positive or not part.n_negative:
        return f"[yellow]not measured[/] ({where})"
    (se_low, se_high), (sp_low, sp_high) = part.sensitivity_ci95, part.specificity_ci95
    return (
        f"sensitivity {part.sensitivity:.1%} ({se_low:.1%} to {se_high:.1%}, n {part.n_positive}), "
        f"specificity {part.specificity:.1%} ({sp_low:.1%} to {sp_high:.1%}, n {part.n_negative}); {where}"
    )


def _resampling(rule: Resampling) -> str:
    if rule.kind == "area":
        return "means over voxels"
    if rule.kind == "linear":
        return "linear, as MONAI's Spacing"
    lone = {
        "auto": f"the coarse axis by itself from {rule.anisotropy:g} × on",
        "always": "the coarse axis by itself",
        "never": "all axes together",
    }[rule.separate_z]
    crop = ", cropped to what is not 0 HU" if rule.crop_nonzero else ""
    return f"splines of order {rule.order} as nnU-Net, logits back in order {rule.logits_order}, {lone}{crop}"


def _intensity(rule: Intensity) -> str:
    if rule.kind == "clip":
        return f"{rule.clip_low_hu:g} to {rule.clip_high_hu:g} HU, {rule.mean_hu:g} becomes 0, SD {rule.std_hu:g}"
    return {"zscore": "z-score of the scan", "rescale": "range of the scan to 0..1", "none": "HU as they are"}[
        rule.kind
    ]


def _sees(spec: Network) -> str:
    where = {
        "localise": "the whole scan",
        "detect": "the organ and its margin" if spec.region == "organ" else "the whole scan",
        "classify": "the organ and its margin",
        "characterise": "each candidate",
    }[spec.stage]
    more = f", then the labels of {spec.after}" if spec.after else ""
    more += ", then a mask" if spec.mask else ""
    for reference in spec.references:
        more += f", then how bright the {reference.organ} is"
    return f"{where}, {_tiling(spec.tiling)}{more}"


def _tiling(tiling: Tiling) -> str:
    if tiling.kind == "whole":
        return f"in one piece, padded to multiples of {tiling.pad_multiple}"
    size = "×".join(str(n) for n in tiling.size)
    if tiling.kind == "patch":
        weights = "Gaussian" if tiling.gaussian else "equal weights"
        steps = "" if tiling.steps == "even" else ", fixed steps"
        air = f"air below {tiling.air_below_hu:g} HU skipped"
        return f"in tiles {size}, overlap {tiling.overlap:.0%}, {weights}{steps}; {air}"
    return f"stretched to {size}" if tiling.kind == "fixed" else f"{size} around it"


def _averages(spec: Network) -> str:
    runs = [_counted(len(spec.files), "fold")]
    if spec.mirror:
        runs.append(f"{2 ** len(spec.mirror)} mirrorings ({', '.join(spec.mirror)})")
    return f"{spec.blend} over {' × '.join(runs)}" if len(spec.files) > 1 or spec.mirror else f"one fold, {spec.blend}"


def _values(spec: Network) -> str:
    return f", written as {', '.join(map(str, spec.region_order))} in this order" if spec.region_order else ""


def _looks(model: CancerModel) -> Iterator[str]:
    if model.extraction is not None:
        rule = model.extraction
        inside = f", {rule.inside_share:.0%} of it inside the organ" if rule.inside_share else ""
        yield (
            f"{model.network}: {model.label} from probability {rule.probability:g}, {rule.min_volume_mm3:g} mm³ and "
            f"{rule.min_diameter_mm:g} mm, scored by its {rule.score}{inside}"
        )
    if model.classifier is not None:
        alone = model.classifier.combine == "classifier"
        how = "alone" if alone else f"{model.classifier.combine} of it and the best candidate"
        yield f"{model.classifier.network}: {model.classifier.label} for the organ as a whole, {how}"
    for asked in model.characterisers:
        effect = f", {asked.label} to {asked.score} the score" if asked.label is not None else ""
        yield f"{asked.network}: {asked.question} of each candidate{effect}"


def _calibration(rule: Calibration | None) -> str:
    if rule is None:
        return "none: scores are as the networks give them"
    if rule.kind == "platt":
        return f"Platt, 1 / (1 + exp({rule.a:.3f} · logit(score) {rule.b:+.3f}))"
    return f"isotonic, {len(rule.scores)} points from {rule.scores[0]:.3f} to {rule.scores[-1]:.3f}"


def _fit_for(limits: Contraindications) -> Rows:
    ages = f"{limits.min_age_years} years on" if limits.max_age_years is None else (
        f"{limits.min_age_years} to {limits.max_age_years} years"
    )  # fmt: skip
    unknown = "not analysed" if limits.unknown_age == "refuse" else "analysed"
    rows = [("for", f"{ages} (age unknown: {unknown})")]
    if len(limits.sexes) < 3 or limits.unknown_sex == "refuse":
        unknown = "not analysed" if limits.unknown_sex == "refuse" else "analysed"
        rows.append(("", f"sex {', '.join(limits.sexes)} (unknown: {unknown})"))
    covered = "the whole organ" if limits.coverage == "complete" else "part of the organ will do"
    rows.append(("scans with", f"slices up to {limits.max_slice_spacing_mm:g} mm apart; {covered}"))
    if limits.contrast is not None:
        rule = limits.contrast
        rows.append(("", f"{escape(rule.phase)}: {rule.low_hu:g} to {rule.high_hu:g} HU in the {rule.organ}"))
    rows += [("", f"{f.measure} of the {f.organ} from {f.low:g} to {f.high:g}") for f in limits.familiar]
    return rows


def _counted(n: int, noun: str) -> str:
    return f"1 {noun}" if n == 1 else f"{n} {noun}s"
