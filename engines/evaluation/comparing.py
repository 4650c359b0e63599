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
from engines.evaluation.measuring import Results
from engines.evaluation.results import CancerResult, CaseResult

Pair = tuple[CancerResult, CancerResult]


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
    pairs = [
        pair
        for source, part in first.items()
        for pair in zip(part.cases, second[source].cases, strict=True)
        if pair[0].set == "judging"
    ]
    if not pairs:
        raise ConfigError("no case is for judging", remedy="Run cases that are not for tuning.")
    known = a[0].run.bundle.thresholds.keys() & b[0].run.bundle.thresholds.keys()
    asked = [c for c in Cancer if c in known and any(c in pair[0].cancers for pair in pairs)]
    cancers = [_cancer(c, [(x.cancers[c], y.cancers[c]) for x, y in pairs if c in x.cancers]) for c in asked]
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
    scored = [(x, y) for x, y in judged if x.score is not None and y.score is not None]
    truth = [x.truth == 1 for x, _ in scored]
    area = None
    if any(truth) and not all(truth):
        area = AucDifference.of(
            stats.paired_auc([x.score or 0.0 for x, _ in scored], [y.score or 0.0 for _, y in scored], truth)
        )
    return CancerComparison(
        cancer=cancer,
        sensitivity=_shares(ill),
        specificity=_shares(well),
        on_ill=_discordance(ill),
        on_well=_discordance(well),
        auc=area,
    )


def _shares(pairs: Sequence[Pair]) -> tuple[Proportion, Proportion]:
    hits = [sum(right(pair[i]) for pair in pairs) for i in (0, 1)]
    return (Proportion.of(stats.rate(hits[0], len(pairs))), Proportion.of(stats.rate(hits[1], len(pairs))))


def _discordance(pairs: Sequence[Pair]) -> Discordance:
    return Discordance.of(stats.mcnemar([right(x) for x, _ in pairs], [right(y) for _, y in pairs]), len(pairs))


def _healthy(
    pairs: Sequence[tuple[CaseResult, CaseResult]], asked: Sequence[Cancer]
) -> tuple[tuple[Proportion, Proportion], Discordance]:
    people = [pair for pair in pairs if all(c in pair[0].cancers and pair[0].cancers[c].truth == 0 for c in asked)]
    people = [pair for pair in people if all(any(analysed(case.cancers[c]) for c in asked) for case in pair)]
    spared = [[not any(flagged(pair[i].cancers[c]) for c in asked) for pair in people] for i in (0, 1)]
    shares = [Proportion.of(stats.rate(sum(one), len(people))) for one in spared]
    return (shares[0], shares[1]), Discordance.of(stats.mcnemar(*spared), len(people))


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
