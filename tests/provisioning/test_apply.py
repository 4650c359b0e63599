"""A plan and a token make an appliance; repeated, changed, interrupted or lied to, the identity stays one and safe."""

from __future__ import annotations

import base64
import datetime as dt
import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from typer.testing import CliRunner

from appliance import config
from appliance.identity import keys
from appliance.identity.keys import IdentityFolder
from appliance.identity.pseudonyms import load_site_key
from core.errors import ConfigError, EnrolmentRefused, IdentityError
from deploy.embedded.ports import free_port
from provisioning.cli import app
from provisioning.enrol import RegistryUnreachable
from provisioning.install import Installation, carry_out
from provisioning.site import read_plan
from registry import authority
from tests.provisioning.conftest import Registry

pytestmark = pytest.mark.integration


def _run(*arguments: str, stdin: str | None = None) -> str:
    """Run the command; its error, if it raises one of ours, is raised here."""
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def _apply(plan: Path, state: Path, token: str | None = None, *more: str) -> dict[str, str]:
    secret = ["--token-stdin"] if token is not None else []
    said = _run("apply", str(plan), "--state", str(state), "--json", *secret, *more, stdin=token)
    steps: dict[str, str] = json.loads(said.splitlines()[-1])["steps"]
    return steps


def test_a_plan_and_a_token_make_an_appliance(registry: Registry, tmp_path: Path) -> None:
    device = "first"
    plan = registry.write_plan(tmp_path, device, modes={"lung": "research"}, scanners=[{"ae_title": "CT1"}])
    token = tmp_path / "token"
    token.write_text(registry.token(device) + "\n")
    out = _run("apply", str(plan), "--token-file", str(token), "--state", str(tmp_path / "state"))
    assert "provisioned" in out
    settings = config.load(tmp_path / "state" / "appliance.yaml")
    assert (settings.site, settings.device) == ("kigali", device)
    assert settings.receiver.calling_ae_titles == ("CT1",)
    assert {c.value: m.value for c, m in settings.analyser.modes.items()} == {"lung": "research"}
    folder = IdentityFolder(settings.identity)
    certificate = keys.load_certificate(folder.certificate)
    keys.check_certificate(
        certificate,
        keys.load_device_key(folder),
        registry.authority.certificate,
        f"kigali.{device}",
        dt.datetime.now(dt.timezone.utc),
    )
    for secret in (folder.device_key, folder.site_key):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.folder.stat().st_mode) == 0o700
    keys.tls_context(folder)
    assert (settings.tuf / "root.json").read_bytes() == (registry.models.root / "metadata" / "1.root.json").read_bytes()
    assert token.read_text().strip() not in out


def test_a_second_run_keeps_everything_and_needs_no_token(registry: Registry, tmp_path: Path) -> None:
    plan = registry.write_plan(tmp_path, "again")
    first = _apply(plan, tmp_path / "state", registry.token("again"))
    assert set(first.values()) == {"made"}
    before = {p: p.read_bytes() for p in (tmp_path / "state").rglob("*") if p.is_file()}
    assert set(_apply(plan, tmp_path / "state").values()) == {"kept"}
    assert {p: p.read_bytes() for p in (tmp_path / "state").rglob("*") if p.is_file()} == before


def test_a_changed_plan_changes_the_settings_and_nothing_else(registry: Registry, tmp_path: Path) -> None:
    plan = registry.write_plan(tmp_path, "changing")
    _apply(plan, tmp_path / "state", registry.token("changing"))
    registry.write_plan(tmp_path, "changing", receiver={"quiet_seconds": 5})
    steps = _apply(plan, tmp_path / "state")
    assert steps.pop("settings") == "changed"
    assert set(steps.values()) == {"kept"}
    assert config.load(tmp_path / "state" / "appliance.yaml").receiver.quiet_seconds == 5


def test_a_certificate_is_renewed_in_its_last_third_and_not_before(registry: Registry, tmp_path: Path) -> None:
    plan = registry.write_plan(tmp_path, "renewed")
    _apply(plan, tmp_path / "state", registry.token("renewed"))
    folder = IdentityFolder(tmp_path / "state" / "identity")
    first, key = folder.certificate.read_bytes(), folder.device_key.read_bytes()
    assert _apply(plan, tmp_path / "state", "not even looked at")["certificate"] == "kept"
    now = dt.datetime.now(dt.timezone.utc)

    def steps(later: dt.datetime, token: str) -> dict[str, str]:
        state = tmp_path / "state"
        made = Installation(read_plan(plan), state, state / "appliance.yaml", lambda: token, lambda: later, renew=True)
        return dict(carry_out(made, lambda title, done: None))

    assert steps(now + dt.timedelta(days=200), "not even looked at")["certificate"] == "kept"
    token = registry.token("renewed")
    assert steps(now + dt.timedelta(days=300), token)["certificate"] == "changed"
    assert folder.certificate.read_bytes() != first
    assert folder.device_key.read_bytes() == key


def test_without_a_token_nothing_is_burnt_and_the_error_says_so(registry: Registry, tmp_path: Path) -> None:
    plan = registry.write_plan(tmp_path, "tokenless")
    with pytest.raises(ConfigError, match="token is needed") as error:
        _apply(plan, tmp_path / "state")
    assert "--token-file" in error.value.remedy()
    with pytest.raises(EnrolmentRefused, match="empty"):
        _apply(plan, tmp_path / "state", "\n")
    assert _apply(plan, tmp_path / "state", registry.token("tokenless"))["certificate"] == "made"


def test_another_ca_than_the_pinned_one_never_sees_the_token(registry: Registry, tmp_path: Path) -> None:
    plan = registry.write_plan(tmp_path, "pinned", ca_sha256="00" * 32)
    with pytest.raises(EnrolmentRefused, match="not the one in the plan") as error:
        _apply(plan, tmp_path / "state", registry.token("pinned"))
    assert registry.authority.fingerprint in str(error.value)
    assert not IdentityFolder(tmp_path / "state" / "identity").ca.exists()


def test_a_fingerprint_may_be_written_as_people_write_it(registry: Registry, tmp_path: Path) -> None:
    hexed = registry.authority.fingerprint.upper()
    printed = ":".join(hexed[i : i + 2] for i in range(0, 64, 2))
    plan = registry.write_plan(tmp_path, "written", ca_sha256=printed)
    assert _apply(plan, tmp_path / "state", registry.token("written"))["registry CA"] == "made"


def test_a_server_that_replays_the_real_ca_does_not_get_the_token(registry: Registry, tmp_path: Path) -> None:
    """It shows the pinned CA, which is public, but its own TLS certificate is by another one."""
    now = dt.datetime.now(dt.timezone.utc)
    evil = authority.create(tmp_path / "evil", "Evil CA", now)
    key = authority.new_key(tmp_path / "evil.key")
    (tmp_path / "evil.crt").write_bytes(evil.server(["127.0.0.1"], key.public_key(), now).pem)
    seen: list[str] = []
    content = base64.encodebytes(pkcs7.serialize_certificates([registry.authority.certificate], Encoding.DER))

    async def fake(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope["headers"]).get(b"authorization", b"").decode())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": content})

    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(
            fake, port=port, lifespan="off", log_config=None,
            ssl_certfile=str(tmp_path / "evil.crt"), ssl_keyfile=str(tmp_path / "evil.key"),
        )
    )  # fmt: skip
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        plan = registry.write_plan(tmp_path, "replayed", enrol_url=f"https://127.0.0.1:{port}")
        with pytest.raises(EnrolmentRefused, match="can't prove"):
            _apply(plan, tmp_path / "state", registry.token("replayed"))
        assert seen == [""]  # the question for its CA, without credentials
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.mark.parametrize("kind", ["wrong", "used", "expired", "of another device"])
def test_a_bad_token_is_refused_in_the_registrys_words(registry: Registry, tmp_path: Path, kind: str) -> None:
    device = f"bad-{kind.split()[0]}"
    plan = registry.write_plan(tmp_path, device)
    token = {
        "wrong": lambda: "not-a-token",
        "used": lambda: registry.token(device),
        "expired": lambda: registry.token(device, dt.timedelta(seconds=-1)),
        "of another device": lambda: registry.token("somebody-else"),
    }[kind]()
    if kind == "used":
        _apply(plan, tmp_path / "other-box", token)
    with pytest.raises(EnrolmentRefused, match="token") as error:
        _apply(plan, tmp_path / "state", token)
    assert "token" in error.value.remedy()
    assert token not in str(error.value)
    if kind != "used":
        assert _apply(plan, tmp_path / "state", registry.token(device))["device key"] == "kept"


def test_the_registry_away_is_not_a_refusal(registry: Registry, tmp_path: Path) -> None:
    plan = registry.write_plan(tmp_path, "away", enrol_url="https://127.0.0.1:1")
    with pytest.raises(RegistryUnreachable):
        _apply(plan, tmp_path / "state", registry.token("away"))


def test_an_identity_is_never_moved_to_another_name_or_registry(registry: Registry, tmp_path: Path) -> None:
    _apply(registry.write_plan(tmp_path, "mine"), tmp_path / "state", registry.token("mine"))
    with pytest.raises(IdentityError, match="enrolled as"):
        _apply(registry.write_plan(tmp_path, "yours"), tmp_path / "state", registry.token("yours"))
    with pytest.raises(IdentityError, match="belongs to a registry"):
        _apply(registry.write_plan(tmp_path, "mine", ca_sha256="11" * 32), tmp_path / "state")
    with pytest.raises(IdentityError, match="root of trust"):
        _apply(registry.write_plan(tmp_path, "mine", tuf_root={"sha256": "22" * 32}), tmp_path / "state")
    assert set(_apply(registry.write_plan(tmp_path, "mine"), tmp_path / "state").values()) == {"kept"}


def test_a_root_of_trust_beside_the_plan(registry: Registry, tmp_path: Path) -> None:
    root = (registry.models.root / "metadata" / "1.root.json").read_bytes()
    (tmp_path / "root.json").write_bytes(root)
    plan = registry.write_plan(tmp_path, "filed", tuf_root={"file": "root.json"}, tuf_url="http://127.0.0.1:1")
    assert _apply(plan, tmp_path / "state", registry.token("filed"))["update trust"] == "made"
    (tmp_path / "root.json").write_bytes(root.replace(b"root", b"rood"))
    with pytest.raises(IdentityError):
        _apply(plan, tmp_path / "state")


def test_a_substituted_root_of_trust_is_refused(registry: Registry, tmp_path: Path) -> None:
    plan = registry.write_plan(tmp_path, "substituted", tuf_root={"sha256": "ab" * 32})
    with pytest.raises(IdentityError, match="not the one in the plan"):
        _apply(plan, tmp_path / "state", registry.token("substituted"))
    assert not (tmp_path / "state" / "tuf" / "root.json").exists()


def test_the_second_box_of_a_site_speaks_of_the_same_patients(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "phrase").write_text("five quite random words here\n")
    _apply(registry.write_plan(tmp_path, "box-a"), tmp_path / "a", registry.token("box-a"))
    sealed = tmp_path / "site-key.json"
    phrase = ("--passphrase-file", str(tmp_path / "phrase"))
    _run("escrow", "--state", str(tmp_path / "a"), "--out", str(sealed), *phrase)
    taken = ("--site-key-escrow", str(sealed), *phrase)
    _apply(registry.write_plan(tmp_path, "box-b"), tmp_path / "b", registry.token("box-b"), *taken)
    first, second = (load_site_key(IdentityFolder(tmp_path / box / "identity")) for box in "ab")
    assert first == second


def test_show_tells_who_the_box_is_and_no_secret(registry: Registry, tmp_path: Path) -> None:
    _apply(registry.write_plan(tmp_path, "shown"), tmp_path / "state", registry.token("shown"))
    folder = IdentityFolder(tmp_path / "state" / "identity")
    out = _run("show", "--state", str(tmp_path / "state"), "--json")
    assert json.loads(out)["certificate"] == "kigali.shown"
    assert json.loads(out)["registry_ca_sha256"] == registry.authority.fingerprint
    assert load_site_key(folder).hex() not in out
    assert "kigali" in _run("show", "--state", str(tmp_path / "state"))


def test_two_runs_at_once_do_not_meet(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with (tmp_path / "state" / ".provisioning").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(IdentityError, match="another onescan-provision"):
            _apply(registry.write_plan(tmp_path, "twice"), tmp_path / "state", "x")


def test_kill_at_any_moment_then_run_again_and_the_box_is_provisioned(registry: Registry, tmp_path: Path) -> None:
    """With one and the same single-use token: it is not burnt by an answer that was lost."""
    jobs = []
    for n in range(1, 61):
        device = f"killed-{n}"
        plan = registry.write_plan(tmp_path / str(n), device)
        jobs.append(
            {"n": n, "plan": str(plan), "state": str(tmp_path / str(n) / "state"), "token": registry.token(device)}
        )
    done = subprocess.run(
        [sys.executable, "-m", "tests.provisioning.crashing"],
        input=json.dumps(jobs), capture_output=True, text=True, timeout=240, env={**os.environ},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(runs) > 15
    assert [run["killed"] for run in runs] == [True] * (len(runs) - 1) + [False]
    for run in runs:
        assert run["second"] == 0, (run, done.stderr)
        assert run["leftovers"] == [], run
        settings = config.load(Path(run["state"]) / "appliance.yaml")
        folder = IdentityFolder(settings.identity)
        keys.check_certificate(
            keys.load_certificate(folder.certificate),
            keys.load_device_key(folder),
            registry.authority.certificate,
            f"kigali.killed-{run['n']}",
            dt.datetime.now(dt.timezone.utc),
        )


def test_the_settings_are_read_back_as_written(registry: Registry, tmp_path: Path) -> None:
    plan = registry.write_plan(
        tmp_path,
        "full",
        institution="Kigali Central Hospital «Est»",
        pacs=[{"name": "main", "host": "10.0.0.5", "port": 104, "ae_title": "PACS"}],
        console={"port": 0},
    )
    _apply(plan, tmp_path / "state", registry.token("full"))
    settings = config.load(tmp_path / "state" / "appliance.yaml")
    assert settings.institution == "Kigali Central Hospital «Est»"
    assert settings.pacs[0].ae_title == "PACS"
    assert settings.registry.tuf_url == registry.models.url
    assert yaml.safe_load((tmp_path / "state" / "appliance.yaml").read_text())["device"] == "full"
