"""Kills, outages and stops: exactly one final result, none lost."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import yaml

from appliance.cli import ROLES
from appliance.role import process_name
from core import durable
from deploy.onescan import Service
from tests.integration.conftest import Hospital, Sent

pytestmark = pytest.mark.integration

KILL_TEST_S = 60.0


def kill(hospital: Hospital, role: str) -> None:
    """kill -9, and wait until its successor runs."""
    process = hospital.stack.role(role)
    process.kill()
    process.wait(20)
    hospital.stack.role(role)


def send_until_taken(hospital: Hospital, sent: Sent) -> None:
    """As a scanner does: what was not confirmed is sent again."""
    hospital.stack.wait_for(lambda: hospital.send(sent.files) == 0, "the scanner got rid of the study")


def reached(hospital: Hospital, sent: Sent, stage: str) -> bool:
    """Whether the study has come at least this far."""
    view = hospital.view(sent)
    return (
        bool(view)
        and {
            "receiving": lambda: view["instances"] >= len(sent.files) // 3,
            "analysing": lambda: view["state"] == "being analysed" or bool(view["answers"]),
            "delivering": lambda: bool(view["answers"]),
        }[stage]()
    )


@pytest.mark.parametrize("stage", ["receiving", "analysing", "delivering"])
@pytest.mark.parametrize("role", ["receiver", "analyser", "courier", "updater", "console"])
def test_a_killed_role_loses_and_repeats_nothing(hospital: Hospital, role: str, stage: str) -> None:
    sent = hospital.phantom()
    sender = hospital.sending(sent.files)
    hospital.stack.wait_for(lambda: reached(hospital, sent, stage), f"the study is {stage}")
    kill(hospital, role)
    if sender.wait(120):
        send_until_taken(hospital, sent)
    hospital.settled(sent)
    hospital.exactly_one_result(sent)
    assert [r["slices"] for r in hospital.results(sent)] == [len(sent.files)]


@pytest.mark.timeout(900)
def test_kills_at_random_for_a_minute_lose_and_repeat_nothing(hospital: Hospital) -> None:
    draw = random.Random(20261123)
    ends = time.monotonic() + KILL_TEST_S
    studies: list[Sent] = []
    while time.monotonic() < ends:
        sent = hospital.phantom()
        studies.append(sent)
        sender = hospital.sending(sent.files)
        for _ in range(draw.randint(1, 3)):
            time.sleep(draw.uniform(0.0, 1.5))
            hospital.stack.role(draw.choice(["receiver", "analyser", "courier", "updater"])).kill()
        if sender.wait(120):
            send_until_taken(hospital, sent)
    for sent in studies:
        hospital.settled(sent, patience_s=240)
        hospital.exactly_one_result(sent)
        assert [r["slices"] for r in hospital.results(sent)] == [len(sent.files)]


def test_broker_down_for_the_whole_analysis_then_up(hospital: Hospital) -> None:
    hospital.stack.broker.stop()
    sent = hospital.phantom()
    assert hospital.send(sent.files) == 0
    hospital.stack.wait_for(lambda: (hospital.view(sent) or {}).get("answers"), "the study is answered")
    assert hospital.results(sent) == []
    hospital.stack.broker.start()
    hospital.settled(sent)
    hospital.exactly_one_result(sent)


def test_pacs_down_then_up(hospital: Hospital) -> None:
    hospital.stack.pacs.stop()
    sent = hospital.phantom()
    assert hospital.send(sent.files) == 0
    view = hospital.stack.wait_for(lambda: reached(hospital, sent, "delivering") and hospital.view(sent), "answered")
    assert view["objects_waiting"] > 0
    hospital.stack.pacs.start()
    hospital.settled(sent, patience_s=180)
    hospital.exactly_one_result(sent)


def test_registry_database_down_then_up(hospital: Hospital) -> None:
    hospital.stack.postgres.stop()
    try:
        sent = hospital.phantom()
        assert hospital.send(sent.files) == 0
        hospital.stack.wait_for(lambda: (hospital.view(sent) or {}).get("answers"), "the study is answered")
        time.sleep(2.0)  # enough for a wrong acknowledgement to come back
        view = hospital.view(sent)
        assert view is not None
        assert not view["acknowledged"], "acknowledged although the registry's database was down"
    finally:
        hospital.stack.postgres.start()
    hospital.settled(sent)
    hospital.exactly_one_result(sent)


def test_a_stop_in_the_middle_is_clean_and_loses_nothing(hospital: Hospital) -> None:
    sent = hospital.phantom()
    assert hospital.send(sent.files) == 0
    hospital.stack.wait_for(lambda: reached(hospital, sent, "analysing"), "the study is being analysed")
    assert hospital.stack.appliance.stop(signal.SIGTERM) == 0
    hospital.stack.appliance.start()
    hospital.settled(sent)
    hospital.exactly_one_result(sent)


def test_five_roles_started_one_by_one_as_systemd_does_read_a_study(hospital: Hospital) -> None:
    assert hospital.stack.appliance.stop() == 0
    with ExitStack() as stack:
        roles = {role: stack.enter_context(started_alone(hospital, role)) for role in ROLES}
        for role, (_, heard) in roles.items():
            assert "READY=1" in heard.recv(4096).decode(), role
            assert psutil.Process(roles[role][0].pid).name() == process_name(role)
        sent = hospital.phantom()
        assert hospital.send(sent.files) == 0
        hospital.settled(sent)
        hospital.exactly_one_result(sent)
        for role, (process, heard) in roles.items():
            process.terminate()
            assert process.wait(30) == 0, role
            heard.settimeout(5)
            words = ""
            while "STOPPING=1" not in words:
                words = heard.recv(4096).decode()
    hospital.stack.appliance.start()
    hospital.stack.wait_for(hospital.stack.box, "the box is up again")


def test_an_idle_analyser_starts_afresh_and_gives_its_memory_back(hospital: Hospital) -> None:
    assert hospital.stack.appliance.stop() == 0
    settings = yaml.safe_load(hospital.stack.appliance_config.read_text())
    settings.setdefault("analyser", {})["unload_after_s"] = 2.0
    config = hospital.stack.appliance_config.with_name("restless.yaml")
    durable.write_text(config, yaml.safe_dump(settings))
    log = hospital.stack.folder / "logs" / "restless.log"
    box = Service(log, "appliance.cli", "run", "--config", str(config))
    box.start()
    try:
        hospital.stack.wait_for(hospital.stack.box, "the box is up")
        sent = hospital.phantom()
        assert hospital.send(sent.files) == 0
        hospital.settled(sent)
        hospital.stack.wait_for(lambda: "starts afresh" in log.read_text(), "the analyser lets go")
        hospital.stack.wait_for(lambda: idle_analyser(box.pid), "its successor runs, without what a study needs")
        again = hospital.phantom()
        assert hospital.send(again.files) == 0
        hospital.settled(again)
        for study in (sent, again):
            hospital.exactly_one_result(study)
    finally:
        box.stop()
        hospital.stack.appliance.start()
    hospital.stack.wait_for(hospital.stack.box, "the box is up again")


def idle_analyser(supervisor: int) -> bool:
    """Whether an analyser runs that has no native library which only a study needs."""
    for child in psutil.Process(supervisor).children():
        if child.name() == process_name("analyser"):
            maps = Path(f"/proc/{child.pid}/maps").read_text()
            return bool(maps) and not any(name in maps for name in ("/scipy/", "/openvino/", "/onnxruntime/"))
    return False


@contextmanager
def started_alone(hospital: Hospital, role: str) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """`onescan-appliance run ROLE` with systemd's socket; ends with the block."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        address = f"onescan-test-{os.getpid()}-{role}"
        heard.bind(f"\0{address}")
        heard.settimeout(60)
        config = str(hospital.stack.appliance_config)
        with (hospital.stack.folder / "logs" / f"{role}-alone.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "appliance.cli", "run", role, "--config", config],
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": f"@{address}", "WATCHDOG_USEC": "60000000"},
            )
        try:
            yield process, heard
        finally:
            process.kill()
            process.wait()


def test_two_studies_at_once_get_one_result_each(hospital: Hospital, phantom: Callable[[], Sent]) -> None:
    studies = [phantom(), phantom()]
    senders = [hospital.sending(sent.files) for sent in studies]
    assert [sender.wait(120) for sender in senders] == [0, 0]
    for sent in studies:
        hospital.settled(sent)
        hospital.exactly_one_result(sent)
