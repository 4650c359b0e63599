"""Results → the file of cases that `onescan-engines calibrate` makes thresholds and evidence of. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from core.errors import ConfigError
from engines.evaluation.cases import Case, CaseFile, Outcome
from engines.evaluation.counting import excused
from engines.evaluation.measuring import Results


def case_file(results: Sequence[Results]) -> CaseFile:
    """Truth and raw score of every case; who was rightly not analysed is of unknown truth there.

    ConfigError where the folders are of several bundles, or somebody is both for tuning and for judging.
    """
    digests = {part.run.bundle.digest for part in results}
    if len(digests) != 1:
        raise ConfigError("the folders hold answers of different bundles", remedy="Hand on one bundle's answers.")
    judging = [part for part in results if any(case.set == "judging" for case in part.cases)]
    cases = [
        Case(
            case=f"{part.run.source[:8]}-{case.case}",
            person=_who(part, case.person),
            set=case.set,
            cancers={
                cancer: Outcome(truth="unknown" if excused(result) else result.truth, score=result.raw)
                for cancer, result in case.cancers.items()
                if cancer in part.run.bundle.thresholds
            },
        )
        for part in results
        for case in part.cases
    ]
    try:
        return CaseFile(
            bundle=next(iter(digests)),
            kind="synthetic" if any(part.run.synthetic for part in judging) else None,
            cohort="; ".join(part.run.cohort for part in judging) or None,
            cases=tuple(cases),
        )
    except ValidationError as error:
        what = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(what, remedy="Run other people for tuning than for judging.") from error


def _who(part: Results, person: int) -> str:
    """Somebody synthetic is a seed, the same in every run; a table's people are that table's."""
    return f"torso-{person}" if part.run.synthetic else f"{part.run.source[:8]}-{person}"
