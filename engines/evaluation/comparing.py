"""Two bundles on the same cases, paired: who errs where the other does not, and whose scores rank better. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from importlib.metadata import version as installed_version

from core.errors import ConfigError
from core.finding import Cancer
from engines.evaluation import statistics as stats
from engines.evaluation.counting import analysed, counts, flagged, right
from engines.evaluation.figures import AucDifference, CancerComparison, Comparison, Discordance, Proportion
from engines.evaluation.measuring import Results, told_apart
from engines.evaluation.results import CancerResult, CaseResult

Pair = tuple[CancerResult, CancerResult, int]
"""What a said and what b said of a case, and whose scan it is."""


def compare(a: Sequence[Results], b: Sequence[Results], now: dt.datetime) -> Comparison:
    """b against a. ConfigError unless both judged the same cases.

    A case counts where it counts for both. p values are also given adjusted (Holm) for all tests of the comparison.
    """
    first, second = ({part.run.source: part for part in parts} for parts in (a, b))
    if first.keys() != second.keys():
        raise ConfigError(
            "the two bundles were not run on the same cases",
            remedy="Run both on the same cohort, seeds or table; then compare the two folders.",
        )
    ours = told_apart(list(first.values()))
    theirs = [case for source in first for case in second[source].cases]
    pairs = [pair for pair in zip(ours, theirs, strict=True) if pair[0].set == "judging"]
    if not pairs:
        raise ConfigError("no case is for judging", remedy="Run cases that are not for tuning.")
    known = a[0].run.bundle.thresholds.keys() & b[0].run.bundle.thresholds.keys()
    asked = [c for c in Cancer if c in known and any(c in pair[0].cancers for pair in pairs)]
    cancers = [_cancer(c, [(x.cancers[c], y.cancers[c], x.person) for x, y in pairs if c in x.cancers]) for c in asked]
    healthy, on_healthy = _healthy(pairs, asked)
    return _adjusted(
        Comparison(
            synthetic=any(part.run.synthetic for part in (*a, *b)),
            made_at=now,
            software=f"onescan {installed_version('onescan')}",
            a=a[0].run.bundle,
            b=b[0].run.bundle,
            cohorts=tuple(part.run.cohort for part in a),
            cases=len(pairs),
            cancers=tuple(cancers),
            healthy=healthy,
            on_healthy=on_healthy,
        )
    )


def _cancer(cancer: Cancer, pairs: Sequence[Pair]) -> CancerComparison:
    judged = [pair for pair in pairs if counts(pair[0]) and counts(pair[1])]
    ill, well = ([pair for pair in judged if pair[0].truth == truth] for truth in (1, 0))
    scored = [pair for pair in judged if pair[0].score is not None and pair[1].score is not None]
    truth, persons = [x.truth == 1 for x, _, _ in scored], [person for *_, person in scored]
    area = None
    if any(truth) and not all(truth):
        a, b = [x.score or 0.0 for x, _, _ in scored], [y.score or 0.0 for _, y, _ in scored]
        area = AucDifference.of(stats.paired_auc(a, b, truth, persons))
    return CancerComparison(
        cancer=cancer,
        sensitivity=_shares(ill),
        specificity=_shares(well),
        on_ill=_discordance(ill),
        on_well=_discordance(well),
        auc=area,
    )


def _shares(pairs: Sequence[Pair]) -> tuple[Proportion, Proportion]:
    persons = [person for *_, person in pairs]
    a, b = [right(x) for x, _, _ in pairs], [right(y) for _, y, _ in pairs]
    return Proportion.of(stats.rate_of(a, persons)), Proportion.of(stats.rate_of(b, persons))


def _discordance(pairs: Sequence[Pair]) -> Discordance:
    a, b = [right(x) for x, _, _ in pairs], [right(y) for _, y, _ in pairs]
    return Discordance.of(stats.mcnemar(a, b, [person for *_, person in pairs]), len(pairs))


def _healthy(
    pairs: Sequence[tuple[CaseResult, CaseResult]], asked: Sequence[Cancer]
) -> tuple[tuple[Proportion, Proportion], Discordance]:
    people = [pair for pair in pairs if all(c in pair[0].cancers and pair[0].cancers[c].truth == 0 for c in asked)]
    people = [pair for pair in people if all(any(analysed(case.cancers[c]) for c in asked) for case in pair)]
    spared = [[not any(flagged(pair[i].cancers[c]) for c in asked) for pair in people] for i in (0, 1)]
    persons = [first.person for first, _ in people]
    a, b = (Proportion.of(stats.rate_of(one, persons)) for one in spared)
    return (a, b), Discordance.of(stats.mcnemar(spared[0], spared[1], persons), len(people))


def _adjusted(found: Comparison) -> Comparison:
    """The same with all p values adjusted for each other."""
    discordances = [d for part in found.cancers for d in (part.on_ill, part.on_well)] + [found.on_healthy]
    areas = [part.auc for part in found.cancers if part.auc is not None and part.auc.p is not None]
    adjusted = iter(stats.holm([d.p for d in discordances] + [area.p or 0.0 for area in areas]))
    discordances = [d.model_copy(update={"p_holm": next(adjusted)}) for d in discordances]
    by_area = {id(area): area.model_copy(update={"p_holm": next(adjusted)}) for area in areas}
    cancers = []
    for i, part in enumerate(found.cancers):
        changes = {"on_ill": discordances[2 * i], "on_well": discordances[2 * i + 1]}
        cancers.append(part.model_copy(update={**changes, "auc": by_area.get(id(part.auc), part.auc)}))
    return found.model_copy(update={"cancers": tuple(cancers), "on_healthy": discordances[-1]})
