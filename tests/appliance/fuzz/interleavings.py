"""Random orders of what can happen to an Assembly, beside a plain model of who is bringing what."""

from __future__ import annotations

import dataclasses
from random import Random

from appliance.intake.assembly import Assembly, Complete
from appliance.intake.facts import InstanceFacts
from tests.appliance.intake.test_assembly import fact

_STUDIES = ("1.1", "1.2", "1.3")
_ASSOCIATIONS = ("a", "b", "c")
_STRANGE = (0.0, -1e308, 1e308, 5e-324, 1e16)
_FACTS = {study: [fact(index, study) for index in range(6)] for study in _STUDIES}


class _Model:
    """current: the study that an open association is bringing. brought: all that it brought, not yet handed over."""

    def __init__(self) -> None:
        self.current: dict[str, str | None] = {}
        self.brought: dict[str, set[str]] = {}


def interleaving(random: Random) -> None:
    """Forty events; whenever something is complete, nobody may be bringing it. Then all ends, and nothing is left."""
    assembly, model, now = Assembly(random.choice((None, 30.0))), _Model(), 0.0
    for _ in range(40):
        now += random.choice((0.0, 0.1, 1.0, 40.0, -5.0, 1e6))
        _happen(assembly, model, now, random)
        if random.random() < 0.5:
            _tick(assembly, model, now)
    for key in list(model.current):
        _close(assembly, model, key, now, released=False)
    for ahead in (1e7, 2e7):  # past every quiet time; what was removed after reporting comes back first
        for study in _STUDIES:
            if assembly.knows(study):
                assembly.restore(study, (), now + ahead)
                for one in _FACTS[study]:
                    assembly.instance_stored("nobody", one, now + ahead)
        _tick(assembly, model, now + 1.5 * ahead)
    assert not assembly._studies
    assert not assembly._associations
    assert assembly.next_deadline() is None


def _happen(assembly: Assembly, model: _Model, now: float, random: Random) -> None:
    key, study, what = random.choice(_ASSOCIATIONS), random.choice(_STUDIES), random.random()
    if key not in model.current:
        assembly.association_opened(key, random.choice(("CT1", "CT2", "")))
        model.current[key], model.brought[key] = None, set()
    elif what < 0.15:
        _close(assembly, model, key, now, released=random.random() < 0.7)
    elif what < 0.2 and not assembly.knows(study):
        assembly.restore(study, _FACTS[study][:3], now, absent=[f.sop_instance_uid for f in _FACTS[study][3:5]])
    else:
        for one in random.sample(_FACTS[study], random.randrange(1, 6)):
            assembly.instance_stored(key, _strange(one, random) if random.random() < 0.05 else one, now)
        model.current[key] = study
        model.brought[key].add(study)


def _strange(one: InstanceFacts, random: Random) -> InstanceFacts:
    number = random.choice(_STRANGE)
    changes = random.choice(
        (
            *({"position": (0.0, 0.0, number)}, {"orientation": (number, 0.0, 0.0, 0.0, number, 0.0)}),
            *({"thickness_mm": number}, {"tilt_degrees": number}, {"position": None}, {"frames": 10**308}),
            *({"spacing_mm": (number, number)}, {"images_in_acquisition": 10**300}, {"rows": 0}),
        )
    )
    return dataclasses.replace(one, **changes)  # type: ignore[arg-type]


def _close(assembly: Assembly, model: _Model, key: str, now: float, released: bool) -> None:
    assembly.association_closed(key, released, now)
    del model.current[key], model.brought[key]


def _tick(assembly: Assembly, model: _Model, now: float) -> None:
    for decision in assembly.tick(now):
        if not isinstance(decision, Complete):
            continue
        assert decision.study_uid not in model.current.values(), "complete while it is being brought"
        if decision.by != "quiet":
            assert not any(decision.study_uid in brought for brought in model.brought.values()), "one is still open"
        assembly.forget(decision.study_uid)
        assert not assembly.knows(decision.study_uid)
        for brought in model.brought.values():
            brought.discard(decision.study_uid)
