"""A client that we did not write: Orthanc's DICOMweb plugin sends studies, chunked and not, some at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import MRImageStorage

from deploy.embedded import OrthancPacs
from deploy.embedded.process import ServerError
from tests.appliance.dicom_samples import ct_series, encoded, write_files
from tests.appliance.intake.stand import Stand, push, storescu, wait_for
from tests.appliance.intake.stow.test_service import spooled
from tests.appliance.intake.stow.web import box, port

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancPacs]:
    if not PLUGIN.exists():
        pytest.skip("Orthanc's DICOMweb plugin is not installed (apt-get install orthanc-dicomweb)")
    with OrthancPacs(tmp_path_factory.mktemp("gateway"), plugins=[PLUGIN]) as running:
        yield running


def knows(gateway: OrthancPacs, stand: Stand, **more: Any) -> None:
    """The box is the gateway's server `box`."""
    settings = {"Url": f"http://127.0.0.1:{port(stand)}/", **more}
    gateway.rest("/dicom-web/servers/box", "PUT", settings)


def stow(gateway: OrthancPacs, level: str, **query: str) -> None:
    """Have it send what the query finds; returns when it is through, ServerError where it says that it failed."""
    found = gateway.rest("/tools/find", "POST", {"Level": level, "Query": query})
    assert found
    gateway.rest("/dicom-web/servers/box/stow", "POST", {"Resources": found, "Synchronous": True})


@pytest.mark.integration
@pytest.mark.parametrize("as_chunks", ["1", "0"], ids=["chunked", "length"])
def test_orthanc_sends_a_study_and_its_bytes_are_in_the_spool(
    tmp_path: Path, gateway: OrthancPacs, as_chunks: str
) -> None:
    series = ct_series(24, study=f"gateway {as_chunks}")
    assert push(gateway.port, tmp_path, series, called="ORTHANC") == [0] * 24
    with box(tmp_path / "box") as stand:
        knows(gateway, stand, ChunkedTransfers=as_chunks)
        stow(gateway, "Study", StudyInstanceUID=series[0].StudyInstanceUID)
        assert spooled(stand) == {ds.SOPInstanceUID: encoded(ds) for ds in series}
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert (handover.complete_by, len(handover.instances)) == ("geometry", 24)


@pytest.mark.integration
def test_a_study_that_orthanc_sends_instance_by_instance_is_one_study(tmp_path: Path, gateway: OrthancPacs) -> None:
    series = ct_series(6, study="gateway, one by one")
    assert push(gateway.port, tmp_path, series, called="ORTHANC") == [0] * 6
    with box(tmp_path / "box", settings={"pause_s": 3.0}) as stand:
        knows(gateway, stand)
        for ds in series:
            stow(gateway, "Instance", SOPInstanceUID=ds.SOPInstanceUID)
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert (handover.complete_by, len(handover.instances)) == ("geometry", 6)


@pytest.mark.integration
def test_orthanc_hears_of_instances_that_are_not_taken(tmp_path: Path, gateway: OrthancPacs) -> None:
    series = ct_series(3, study="gateway mr", SOPClassUID=MRImageStorage, Modality="MR")
    done = storescu(gateway.port, *write_files(tmp_path, series), options=["-aec", "ORTHANC"])
    assert done.returncode == 0, done.stderr
    with box(tmp_path / "box") as stand:
        knows(gateway, stand)
        with pytest.raises(ServerError):
            stow(gateway, "Study", StudyInstanceUID=series[0].StudyInstanceUID)
        assert not stand.objects()
