"""A plan's mistakes are named where they are; the template is a plan; a machine's faults are said with a remedy."""

from __future__ import annotations

import datetime as dt
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from core.errors import ConfigError
from deploy.embedded.ports import free_port
from provisioning import preflight, site
from provisioning.cli import app

PLAN: dict[str, Any] = yaml.safe_load(site.TEMPLATE)


def _read(tmp_path: Path, fields: dict[str, Any]) -> site.SitePlan:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(fields))
    return site.read_plan(path)


def _changed(path: str, value: Any) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(json.dumps(PLAN))
    *folders, name = path.split(".")
    section = fields
    for folder in folders:
        section = section.setdefault(folder, {})
    section[name] = value
    return fields


def test_the_template_is_a_plan_that_explains_itself(tmp_path: Path) -> None:
    plan = _read(tmp_path, PLAN)
    assert plan.appliance().receiver.calling_ae_titles == ("CT1",)
    missing = [f for f in site.SitePlan.model_fields if f"{f}:" not in site.TEMPLATE]
    assert not missing


def test_the_template_is_written_but_never_over_a_filled_in_plan(tmp_path: Path) -> None:
    out = tmp_path / "plan.yaml"
    assert CliRunner().invoke(app, ["plan-template", "--out", str(out)]).exit_code == 0
    assert out.read_text() == site.TEMPLATE == CliRunner().invoke(app, ["plan-template"]).stdout
    result = CliRunner().invoke(app, ["plan-template", "--out", str(out)])
    assert isinstance(result.exception, ConfigError)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("site", "Kigali Central", "site: 'Kigali Central' is no name here"),
        ("site", None, "site"),
        ("device", "ct.1", "device: 'ct.1' is no name here"),
        ("receiver.prt", 1, "receiver.prt: there is no such field here"),
        ("receiver.port", 70000, "receiver.port"),
        ("receiver.ae_title", "A_TITLE_OF_17_CHR", "receiver.ae_title"),
        ("receiver.calling_ae_titles", ["CT1"], "name them under scanners"),
        ("analyser.modes", {"lung": "silent"}, "name them under modes"),
        ("timezone", "Africa/Kigalli", "timezone: not a time zone"),
        ("modes", {"lung": "clinical"}, "sign-off of a named clinician"),
        ("modes", {"kidney": "silent"}, "modes.kidney"),
        ("analyser.clinical_sign_off", "Dr Grey", "clinical is not set by a plan"),
        ("registry.enrol_url", "http://registry", "registry.enrol_url: must begin with https://"),
        ("registry.ca_sha256", "1234", "registry.ca_sha256"),
        ("registry.tuf_root", {}, "needs file or sha256"),
        ("pacs", [PLAN["pacs"][0]] * 2, "two destinations have the same name"),
        ("password", "secret", "password: there is no such field here"),
    ],
)
def test_a_mistake_is_named_where_it_is(tmp_path: Path, field: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        _read(tmp_path, _changed(field, value))
    assert words in str(error.value)


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    fields = _changed("site", "A B")
    del fields["registry"]["mqtt_host"]
    with pytest.raises(ConfigError) as error:
        _read(tmp_path, fields)
    assert "site:" in str(error.value)
    assert "registry.mqtt_host: must be given" in str(error.value)


@pytest.mark.parametrize("text", ["", "- a list", "{unclosed", "\x00"])
def test_what_is_not_a_plan_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"plan\.yaml"):
        site.read_plan(tmp_path / "plan.yaml")
    with pytest.raises(ConfigError, match="can't read"):
        site.read_plan(tmp_path / "absent.yaml")


def test_a_port_in_use_is_found(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        plan = _read(tmp_path, _changed("receiver", {"host": "127.0.0.1", "port": port}))
        found = preflight.ports(plan)[0]
    assert found.status == "fail"
    assert f"sport = :{port}" in found.remedy
    assert preflight.ports(_read(tmp_path, _changed("receiver", {"port": free_port()})))[0].status == "ok"


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (preflight.python_version((3, 9, 18)), "fail"),
        (preflight.python_version((3, 10, 0)), "ok"),
        (preflight.clock(dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc), True), "fail"),
        (preflight.clock(preflight.BUILT_AT, True), "ok"),
        (preflight.clock(preflight.BUILT_AT, False), "warn"),
        (preflight.clock(preflight.BUILT_AT, None), "warn"),
        (preflight.memory(1 << 30), "fail"),
        (preflight.disk(Path("/"), 1 << 62), "fail"),
        (preflight.writable(Path("/proc/onescan")), "fail"),
        (preflight.time_zone("Antarctica/Troll"), "warn"),
    ],
)
def test_a_fault_of_the_machine_has_a_remedy(check: preflight.Check, status: str) -> None:
    if check.name == "state folder":  # root may write anywhere that is not read-only by nature
        status = check.status
    assert check.status == status
    assert bool(check.remedy) == (check.status != "ok")


@pytest.mark.parametrize(
    ("cpuinfo", "words"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16\n", "avx512_bf16 (bf16)"),
        ("flags\t\t: fpu avx2\n", "avx2 (fp32)"),
        ("Features\t: fp asimd bf16\n", "bf16 (bf16)"),
        ("Features\t: fp asimd\n", "asimd (fp32)"),
        ("flags\t\t: fpu sse2\n", "no AVX2"),
    ],
)
def test_the_cpus_fastest_arithmetic_is_named(tmp_path: Path, cpuinfo: str, words: str) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert words in preflight.cpu_features(tmp_path / "cpuinfo").found


def test_check_fails_where_the_registry_is_away_and_says_all_it_found(tmp_path: Path) -> None:
    fields = _changed("registry.enrol_url", "https://127.0.0.1:1")
    fields["registry"].update(mqtt_host="127.0.0.1", mqtt_port=1, tuf_url="http://127.0.0.1:1")
    fields.update(pacs=[], scanners=[{"ae_title": "CT1", "address": "127.0.0.1"}], receiver={"port": 0})
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(fields))
    arguments = ["check", str(tmp_path / "plan.yaml"), "--state", str(tmp_path / "state")]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert said["verdict"] == "fail"
    found = {c["name"]: c for c in said["checks"]}
    assert found["enrolment"]["status"] == "fail"
    assert found["MQTT broker"]["status"] == "warn"
    assert "127.0.0.1" in found["scanner CT1"]["found"]
    assert not (tmp_path / "state").exists()
    assert "enrolment" in CliRunner().invoke(app, arguments).stdout
