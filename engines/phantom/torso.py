"""From a person to painted anatomy: the order in which a torso is built. Read this file first.

First everything gets its place (fields), because organs give way to each other; then everything is painted, from the
skin inwards; what is wrong comes last and where it is, it changes the organ around it.
"""

from __future__ import annotations

from dataclasses import dataclass

from engines.phantom import abdomen, body, gut, lookalikes, masses, skeleton, thorax, walls
from engines.phantom.fields import Noise
from engines.phantom.person import Person
from engines.phantom.shapes import Box
from engines.phantom.studio import Found, Layer, Studio


@dataclass(frozen=True, eq=False)
class Torso:
    """A person's anatomy, ready to be scanned. trunk: the body's box without the arms, mm z-y-x. back_mm: its y."""

    person: Person
    layers: list[Layer]
    findings: tuple[Found, ...]
    fine: Noise
    coarse: Noise
    trunk: Box
    back_mm: float


def build(person: Person) -> Torso:
    """Build `person`'s torso."""
    studio = Studio(person)
    body.build_body(studio)
    skeleton.build_spine(studio)
    thorax.build_thorax(studio)
    abdomen.build_abdomen(studio)
    gut.build_gut(studio)
    body.paint_body(studio)
    thorax.paint_thorax(studio)
    skeleton.paint_skeleton(studio)
    body.muscles_inside(studio)
    abdomen.paint_abdomen(studio)
    gut.paint_gut(studio)
    lookalikes.paint_breasts(studio)
    lookalikes.paint_lookalikes(studio)
    masses.paint_masses(studio)
    walls.paint_walls(studio)
    box = studio.fields["body"].bounds
    trunk = studio.fields["wall"].bounds
    return Torso(person, studio.layers, tuple(studio.findings), studio.fine, studio.coarse, box, trunk[1][1])
