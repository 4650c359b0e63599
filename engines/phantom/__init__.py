"""Synthetic patients: seed in, whole-torso CT with voxel-exact truth out. numpy only, so it runs on the device too.

    patient = sample_patient(seed)            who: body, tissues, lesions (a frozen description)
    volume, labels = render(patient, Scan())  HU volume and `Tissue` labels
    engines.phantom.dicom.write_series(...)   the same as a DICOM series (needs pydicom)

The read order is patient → shapes → anatomy → viscera → lesions → noise → rendering. Anybody may call this; it draws
on nothing but `core`. Images are stylised: good enough to train and test the machinery, no evidence about people.
"""

from engines.phantom.labels import PARTS_OF_LIVER, PARTS_OF_LUNG, Tissue
from engines.phantom.lesions import sample_patient
from engines.phantom.noise import Kernel
from engines.phantom.patient import Lesion, LesionKind, Patient
from engines.phantom.rendering import Scan, geometry_of, organ_mask, render

__all__ = [
    "PARTS_OF_LIVER",
    "PARTS_OF_LUNG",
    "Kernel",
    "Lesion",
    "LesionKind",
    "Patient",
    "Scan",
    "Tissue",
    "geometry_of",
    "organ_mask",
    "render",
    "sample_patient",
]
