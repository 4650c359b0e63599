"""Synthetic torsos: whole-torso CT with all seven cancers, their look-alikes, and voxel-exact truth. numpy only.

    person = sample_person(seed)             who is scanned and what is wrong: a frozen description
    torso = build(person)                    anatomy, in about 2 s
    rendered = render(torso, Scan(...))      volume, organ labels, finding labels, at any spacing
    record_of(torso, scan, rendered)         the truth as plain values

`cohort` makes thousands of cases, `dicom` writes a study with its truth as SEG, `difficulty` is the frozen law of how
large and how faint cancers are. Read order: torso → studio → fields → body → skeleton → thorax → abdomen → gut →
findings → masses, walls, lookalikes → rendering → physics. Made to replace `engines.phantom`'s first patients when the
reference bundle is next trained (ADR 0021). Synthetic: no evidence about people.
"""

from engines.phantom.torso.labels import LOBES, ORGAN_OF, Tissue
from engines.phantom.torso.person import Person, Plan, sample_person
from engines.phantom.torso.physics import Kernel
from engines.phantom.torso.record import organ_mask, record_of
from engines.phantom.torso.rendering import COVERAGE, Rendered, Scan, geometry_of, render, render_blocks
from engines.phantom.torso.scanning import sample_scan
from engines.phantom.torso.studio import Found
from engines.phantom.torso.torso import Torso, build

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
