"""What `onescan-appliance completeness` says: how each scanner sends, and the quiet time in use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from appliance.intake.pacing import QUANTILE, Gaps, Pace, Sender, quiet_time, suggestion
from appliance.storage.pace_file import Completion


def describe(
    paces: Mapping[Sender, Pace],
    completions: Sequence[Completion],
    configured: float | None,
    pseudonym: Callable[[str], str],
) -> dict[str, Any]:
    """Everything as plain values: for `--json`, and for `tables`. Gaps in s; no UID and no patient is in it."""
    return {
        "configured_s": configured,
        "scanners": [_scanner(sender, pace, configured) for sender, pace in reversed(list(paces.items()))],
        "suggestion": _overall(paces, configured),
        "studies": [
            {
                "study": pseudonym(one.study_uid),
                "sender": one.sender,
                "generation": one.generation,
                "complete_by": one.by,
                "explanation": one.explanation,
                "at": one.at.isoformat(timespec="seconds"),
            }
            for one in completions
        ],
    }


def _scanner(sender: Sender, pace: Pace, configured: float | None) -> dict[str, Any]:
    used, learned = quiet_time(configured, pace), suggestion(pace)
    return {
        "ae_title": sender.ae_title,
        "address": sender.address,
        "studies": pace.studies,
        "complete_by": dict(pace.complete_by),
        "gaps_between_slices_s": _gaps(pace.within),
        "gaps_between_associations_s": _gaps(pace.between),
        "late_after": dict(pace.late_after),
        "late_gaps_s": pace.recent_late(),
        "quiet_s": used.seconds,
        "source": used.source,
        "why": used.why,
        "suggested_s": learned.seconds if learned else None,
        "suggested_why": learned.why if learned else "",
    }


def _gaps(gaps: Gaps) -> dict[str, float | int | None]:
    return {"count": gaps.total, "median": gaps.quantile(0.5), "most": gaps.quantile(QUANTILE)}


def _overall(paces: Mapping[Sender, Pace], configured: float | None) -> str:
    """What to write into the configuration, if anything."""
    learned = [found.seconds for pace in paces.values() if (found := suggestion(pace))]
    if not learned:
        return "Too few studies were seen for a suggestion."
    if configured is None:
        return "Leave receiver.quiet_seconds out: it is learned for each scanner."
    longest = max(learned)
    if configured < longest:
        return f"Raise receiver.quiet_seconds from {configured:g} to {longest:g}, or leave it out: it is then learned."
    if configured > 2 * longest:
        return f"Leave receiver.quiet_seconds out: {longest:g} s serve these scanners, {configured:g} are configured."
    return f"Keep receiver.quiet_seconds at {configured:g}."


def tables(said: Mapping[str, Any]) -> list[RenderableType]:
    """`describe`'s values for people."""
    scanners = Table(
        *("scanner", "studies", "complete by", "gap between slices", "between associations", "late slices"),
        "quiet time in use",
    )
    for one in said["scanners"]:
        late = "\n".join(f"{n} after {by}" for by, n in one["late_after"].items()) or "none"
        used = f"[bold]{one['quiet_s']:g} s[/], {one['source']}\n[dim]{escape(one['why'])}[/]"
        if one["source"] == "configured" and one["suggested_s"]:
            used += f"\nlearned: {one['suggested_s']:g} s [dim]({escape(one['suggested_why'])})[/]"
        scanners.add_row(
            f"[bold]{escape(one['ae_title'])}[/]\n{one['address']}",
            str(one["studies"]),
            "\n".join(f"{by} {n}" for by, n in one["complete_by"].items()),
            _words(one["gaps_between_slices_s"]),
            _words(one["gaps_between_associations_s"]),
            late,
            used,
        )
    studies = Table("at", "study", "from", "complete by", "why")
    for one in said["studies"]:
        again = f" (revision {one['generation']})" if one["generation"] > 1 else ""
        by = f"{one['complete_by'] or 'not yet'}{again}"
        studies.add_row(one["at"], one["study"][:8], escape(one["sender"]), by, escape(one["explanation"]))
    return [scanners if said["scanners"] else "No scanner's study has ended yet.", said["suggestion"], studies]


def _words(gaps: Mapping[str, Any]) -> str:
    if not gaps["count"]:
        return "none"
    return f"{gaps['median']:.3g} s median\n{gaps['most']:.3g} s for {100 * QUANTILE:g} %"
