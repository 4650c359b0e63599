"""Synthetic torsos: whole-torso CT with all seven cancers, their look-alikes, and voxel-exact truth. numpy only.

    person = sample_person(seed)             who is scanned and what is wrong: a frozen description
    torso = build(person)                    anatomy, in about 2 s
    rendered = render(torso, Scan(...))      volume, organ labels, finding labels, at any spacing
    record_of(torso, scan, rendered)         the truth as plain values

`cohort` makes thousands of cases, `dicom` writes a series, or a study with its truth as SEG, `difficulty` is the frozen
law of how large and how faint cancers are. Read order: torso → studio → fields → body → planes → skeleton → thorax →
abdomen → gut → findings → masses, walls, lookalikes → rendering → physics. Why so: ADR 0021. Anybody may call this; it
draws on nothing but `core`. Synthetic: no evidence about people.
"""

from engines.phantom.labels import LOBES, ORGAN_OF, Tissue
from engines.phantom.person import Person, Plan, sample_person
from engines.phantom.physics import Kernel
from engines.phantom.record import organ_mask, record_of
from engines.phantom.rendering import COVERAGE, Rendered, Scan, geometry_of, render, render_blocks
from engines.phantom.scanning import sample_scan
from engines.phantom.studio import Found
from engines.phantom.torso import Torso, build

__all__ = [
    "COVERAGE",
    "LOBES",
    "ORGAN_OF",
    "Found",
    "Kernel",
    "Person",
    "Plan",
    "Rendered",
    "Scan",
    "Tissue",
    "Torso",
    "build",
    "geometry_of",
    "organ_mask",
    "record_of",
    "render",
    "render_blocks",
    "sample_person",
    "sample_scan",
]
