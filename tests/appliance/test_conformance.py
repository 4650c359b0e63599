"""The conformance statement is what the code does: as committed, of a box, and against a real association."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from pydicom.uid import UID_dictionary
from pynetdicom import AE
from pynetdicom.presentation import PresentationContext, build_context
from typer.testing import CliRunner

from appliance import cli, conformance
from appliance.association import Timeouts
from appliance.intake import door, refusal
from appliance.intake.calling import PeerCaller
from appliance.intake.control_services import CommitmentService, StepService
from appliance.storage.commitment_file import CommitmentFile
from appliance.storage.intake_journal import IntakeJournal
from appliance.storage.step_file import StepFile
from tests.appliance.intake.stand import AE_TITLE, running

MOST_CONTEXTS = 128  # of one association, PS3.8 9.3.2.2
DOCUMENT = Path(__file__).parents[2] / "docs" / "dicom-conformance.md"
BOX = """
site: north
device: ct1
state: /var/lib/onescan
registry: {mqtt_host: registry.example, tuf_url: "https://registry.example"}
receiver:
  ae_title: NORTHCT
  port: 4242
  calling_ae_titles: [CT1]
  max_associations: 7
  mpps: {offered: false}
  stow: {port: 8999}
pacs:
  - {name: main, host: 10.0.0.5, port: 104, ae_title: ARCHIVE}
reconciliation:
  sources:
    - {name: ct, host: 10.0.0.6, port: 105, ae_title: SCANNER, model: patient-root}
  web:
    - {name: vna, url: "https://somebody:secret@10.0.0.7/dicom-web"}
"""


def test_the_committed_statement_is_that_of_the_defaults() -> None:
    made = conformance.statement(conformance.DEFAULTS, options=True)
    assert DOCUMENT.read_text(encoding="utf-8") == made, (
        "make it anew: python -m appliance.conformance > docs/dicom-conformance.md"
    )


def test_a_box_prints_its_own(tmp_path: Path) -> None:
    (tmp_path / "appliance.yaml").write_text(BOX)
    done = CliRunner().invoke(cli.app, ["conformance", "--config", str(tmp_path / "appliance.yaml")])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    for line in (
        "| Called AE title | has to be `NORTHCT` |",
        "| Calling AE titles | CT1, SCANNER, NORTHCT |",
        "| Associations at the same time | 7 |",
        "| Modality Performed Procedure Step SOP Class |  | SCP | off |",
        "| Comprehensive 3D SR Storage | SCU |  | on |",
        "| Study Root Query/Retrieve Information Model - FIND | SCU |  | off |",
        "| Patient Root Query/Retrieve Information Model - FIND | SCU |  | on |",
        "| STOW-RS |  | origin server | on |",
        "- `ARCHIVE` at 10.0.0.5:104",
        "- `SCANNER` at 10.0.0.6:105, patient-root",
        "Procedure steps are switched off on this box.",
    ):
        assert line in lines
    assert any(line.startswith("| `receiver.stow.port` | 8999 |") for line in lines)
    assert any(line.startswith("| `receiver.tls` | none |") for line in lines)
    assert not any(line.startswith("| `receiver.tls.port`") for line in lines), "a setting of what is off"
    assert "secret" not in done.output


def test_every_status_of_a_refused_instance_is_explained() -> None:
    codes = {value for value in vars(refusal).values() if isinstance(value, int)}
    assert set(conformance.STORE_STATUSES) == codes | {door.CLASS_NOT_SUPPORTED, door.SYNTAX_NOT_SUPPORTED}


def test_what_an_association_accepts_is_the_table_and_nothing_else(tmp_path: Path) -> None:
    """Every SOP class and transfer syntax that there is, proposed to a receiver with all services."""
    listed = _listed(DOCUMENT.read_text(encoding="utf-8"))
    syntaxes = [uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"]
    classes = [uid for uid, entry in UID_dictionary.items() if entry[1] in ("SOP Class", "Meta SOP Class")]
    ours = {sop_class for sop_class, _ in listed}
    assert ours <= set(classes)
    assert {syntax for _, syntax in listed} <= set(syntaxes)
    pairs = [build_context(sop_class, syntax) for sop_class in sorted(ours) for syntax in syntaxes]
    others = [build_context(sop_class, syntaxes) for sop_class in classes if sop_class not in ours]
    with every_service(tmp_path) as port:
        assert _accepted(port, [*pairs, *others]) == listed


@contextlib.contextmanager
def every_service(folder: Path) -> Iterator[int]:
    """The port of a receiver that offers what the defaults have it offer."""
    database = folder / "intake.db"
    IntakeJournal(database, folder / "spool").close()
    with contextlib.closing(CommitmentFile(database)) as promises, contextlib.closing(StepFile(database)) as steps:
        commitment = CommitmentService(promises, PeerCaller({}, AE_TITLE, Timeouts()))
        with running(folder, commitment=commitment, steps=StepService(steps)) as stand:
            yield stand.port


def _listed(document: str) -> set[tuple[str, str]]:
    """(SOP class, transfer syntax) pairs of the table."""
    table = document.split("#### Presentation contexts accepted\n")[1].split("\n\n")[0]
    rows = [re.findall(r"`([0-9.]+)`", line) for line in table.splitlines()[2:]]
    return {(sop_class, syntax) for sop_class, *syntaxes in rows for syntax in syntaxes}


def _accepted(port: int, proposed: list[PresentationContext]) -> set[tuple[str, str]]:
    """What is accepted of it, on as many associations as it takes."""
    found = set()
    for start in range(0, len(proposed), MOST_CONTEXTS):
        batch = proposed[start : start + MOST_CONTEXTS]
        association = AE(ae_title="CT1").associate("127.0.0.1", port, contexts=batch, ae_title=AE_TITLE)
        assert association.is_established or association.acceptor.primitive is not None, "no answer"
        answered = [*association.accepted_contexts, *association.rejected_contexts]
        assert len(answered) == len(batch)
        found |= {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}
        if association.is_established:
            association.release()
    return found
