"""The conformance statement is what the code does: as committed, of a box, and against a real association."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from appliance import cli, conformance
from appliance.intake import door, refusal

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
