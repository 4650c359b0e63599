"""Independent judges of DICOM objects: dicom3tools, PixelMed, dcmtk. Each returns what it objects to."""

from __future__ import annotations

import subprocess
from pathlib import Path

JAVA = Path("/usr/share/java")
_PIXELMED_JARS = ("pixelmed", "commons-codec", "commons-net", "hsqldb", "jmdns", "vecmath")
_NO_XPATH_LIMITS = [f"-Djdk.xml.xpath{name}Limit=0" for name in ("TotalOp", "ExprOp", "ExprGrp")]


def dciodvfy_errors(path: Path) -> list[str]:
    """What dicom3tools' dciodvfy calls an error in an object (PS3.3 IODs)."""
    done = subprocess.run(["dciodvfy", str(path)], check=False, capture_output=True, text=True, errors="replace")
    said = (done.stdout + done.stderr).splitlines()
    if not said:
        return ["dciodvfy said nothing at all"]
    return [line for line in said if line.startswith("Error")]


def pixelmed_sr_errors(path: Path) -> list[str]:
    """What PixelMed's DicomSRValidator calls an error in a report (PS3.16 templates). Takes 10 to 25 s."""
    jars = ":".join(str(JAVA / f"{name}.jar") for name in _PIXELMED_JARS)
    command = ["java", "-Xmx4g", *_NO_XPATH_LIMITS, "-cp", jars, "com.pixelmed.validate.DicomSRValidator", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace", timeout=240)
    said = (done.stdout + done.stderr).splitlines()
    if not any("Found Root Template TID_1500" in line for line in said):
        return ["PixelMed did not recognise a TID 1500 report", *said[-5:]]
    return [line for line in said if line.startswith("Error")]


def dcmtk(program: str, *arguments: str) -> str:
    """Run one of dcmtk's tools; its output. Raises where it fails."""
    done = subprocess.run([program, *arguments], check=True, capture_output=True, text=True, errors="replace")
    return done.stdout + done.stderr
