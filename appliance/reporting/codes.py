"""Coded concepts: SNOMED CT, DCM and UCUM where these have one (PS3.16), our own scheme 99ONESCAN otherwise."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from core.finding import Cancer, Mode, Reason, Verdict

SCHEME = "99ONESCAN"

SITE: dict[Cancer, Code] = {
    Cancer.PANCREAS: Code("15776009", "SCT", "Pancreas"),
    Cancer.OESOPHAGUS: Code("32849002", "SCT", "Esophagus"),
    Cancer.LUNG: Code("39607008", "SCT", "Lung"),
    Cancer.BREAST: Code("76752008", "SCT", "Breast"),
    Cancer.LIVER: Code("10200004", "SCT", "Liver"),
    Cancer.STOMACH: Code("69695003", "SCT", "Stomach"),
    Cancer.COLORECTUM: Code("14742008", "SCT", "Large intestine"),
}
NEOPLASM = Code("108369006", "SCT", "Neoplasm")
ABNORMAL_STRUCTURE = Code("49755003", "SCT", "Morphologically Abnormal Structure")

QUESTION: dict[Cancer, Code] = {
    Cancer.PANCREAS: Code("cancer_pancreas", SCHEME, "Pancreatic cancer"),
    Cancer.OESOPHAGUS: Code("cancer_oesoph", SCHEME, "Oesophageal cancer"),
    Cancer.LUNG: Code("cancer_lung", SCHEME, "Lung cancer"),
    Cancer.BREAST: Code("cancer_breast", SCHEME, "Breast cancer"),
    Cancer.LIVER: Code("cancer_liver", SCHEME, "Liver cancer"),
    Cancer.STOMACH: Code("cancer_stomach", SCHEME, "Gastric cancer"),
    Cancer.COLORECTUM: Code("cancer_colorect", SCHEME, "Colorectal cancer"),
}
VERDICTS: dict[Verdict, Code] = {
    Verdict.NEGATIVE: Code("260385009", "SCT", "Negative"),
    Verdict.POSITIVE: Code("10828004", "SCT", "Positive"),
    Verdict.INDETERMINATE: Code("82334004", "SCT", "Indeterminate"),
    Verdict.NOT_ANALYSED: Code("not_analysed", SCHEME, "Not analysed"),
}
MODE = Code("mode", SCHEME, "Mode of use")
MODES: dict[Mode, Code] = {
    Mode.SILENT: Code("mode_silent", SCHEME, "Not in use at this site"),
    Mode.RESEARCH: Code("mode_research", SCHEME, "Research use only"),
    Mode.CLINICAL: Code("mode_clinical", SCHEME, "Clinical use"),
}
REASON = Code("reason", SCHEME, "Reason for not analysing")
# Short: a code value has 16 characters at most. Add codes, never give one another meaning.
REASON_VALUES: dict[Reason, str] = {
    Reason.NO_MODEL: "no_model",
    Reason.NO_ACTIVE_BUNDLE: "no_bundle",
    Reason.WITHDRAWN: "withdrawn",
    Reason.FAILED: "failed",
    Reason.NO_CT: "no_ct",
    Reason.NO_AXIAL_SERIES: "no_axial_series",
    Reason.TOO_FEW_SLICES: "too_few_slices",
    Reason.GANTRY_TILT: "gantry_tilt",
    Reason.MISSING_SLICES: "missing_slices",
    Reason.MIXED_SPACING: "mixed_spacing",
    Reason.MIXED_GEOMETRY: "mixed_geometry",
    Reason.DUPLICATE_POSITIONS: "duplicate_pos",
    Reason.TOO_THICK: "too_thick",
    Reason.UNREADABLE: "unreadable",
    Reason.NOT_COVERED: "not_covered",
    Reason.ORGAN_NOT_FOUND: "organ_not_found",
    Reason.CONTRAST: "contrast",
    Reason.KERNEL: "kernel",
    Reason.AGE: "age",
    Reason.SEX: "sex",
    Reason.OUT_OF_DISTRIBUTION: "out_of_distrib",
    Reason.MEMORY: "memory",
    Reason.DEADLINE: "deadline",
}
SCORE = Code("score", SCHEME, "Suspicion score (0 to 1)")

LONG_AXIS = Code("103339001", "SCT", "Long Axis")
VOLUME = Code("118565006", "SCT", "Volume")
MILLIMETRE = Code("mm", "UCUM", "mm")
CUBIC_MILLIMETRE = Code("mm3", "UCUM", "mm3")
NO_UNITS = Code("1", "UCUM", "no units")

COMMENT = Code("121106", "DCM", "Comment")
SUMMARY = Code("121111", "DCM", "Summary")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
PROCEDURE = Code("25045-6", "LN", "CT unspecified body region")
ACQUISITION_EQUIPMENT = Code("109101", "DCM", "Acquisition Equipment")
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")


def reason_code(reason: Reason) -> Code:
    """Why a cancer was not analysed."""
    return Code(REASON_VALUES[reason], SCHEME, reason.value.capitalize())


def item(code: Code) -> Dataset:
    """A code as the item of a code sequence (PS3.3 table 8.8-1)."""
    dataset = Dataset()
    dataset.CodeValue = code.value
    dataset.CodingSchemeDesignator = code.scheme_designator
    dataset.CodeMeaning = code.meaning
    return dataset


def scheme_identification() -> Dataset:
    """What 99ONESCAN is, for the Coding Scheme Identification Sequence (PS3.3 C.12.1.1.1)."""
    dataset = Dataset()
    dataset.CodingSchemeDesignator = SCHEME
    dataset.CodingSchemeName = "OneScan answers"
    dataset.CodingSchemeResponsibleOrganization = "OneScan"
    return dataset
