"""Bells wake, notifications arrive, logs keep names out, the supervisor brings roles back."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from pathlib import Path

import pytest
from pydicom.valuerep import DSfloat

from appliance.doorbell import Bell, Bells
from appliance.log import JsonLines, about
from appliance.notify import Notifier
from core.errors import ConfigError


def test_a_bell_rings_through_a_very_long_path(tmp_path: Path) -> None:
    run = tmp_path / ("long" * 40)
    bell, bells = Bell(run, "analyser"), Bells(run)
    bells.ring("analyser")
    bells.ring("nobody")
    os.set_blocking(bell.fileno(), True)
    assert os.read(bell.fileno(), 16) == b"!"


def test_a_ringing_bell_never_blocks(tmp_path: Path) -> None:
    bell, bells = Bell(tmp_path, "analyser"), Bells(tmp_path)
    for _ in range(10_000):
        bells.ring("analyser")
    bell.drain()
    bells.ring("analyser")
    os.set_blocking(bell.fileno(), True)
    assert os.read(bell.fileno(), 16) == b"!"


def test_a_bell_of_a_killed_role_can_be_hung_again(tmp_path: Path) -> None:
    Bell(tmp_path, "courier")
    again, bells = Bell(tmp_path, "courier"), Bells(tmp_path)
    bells.ring("courier")
    os.set_blocking(again.fileno(), True)
    assert os.read(again.fileno(), 16) == b"!"


def test_systemd_hears_ready_status_and_watchdog(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "notify"))
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"})
    notifier.ready("listening on 11112")
    notifier.alive()
    assert listener.recv(200) == b"READY=1\nSTATUS=listening on 11112"
    assert listener.recv(200) == b"WATCHDOG=1"
    assert notifier.watchdog_s == 30.0


def test_a_watchdog_for_another_process_is_not_ours() -> None:
    assert Notifier({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}).watchdog_s == 0.0


def formatted(error: BaseException) -> dict[str, object]:
    try:
        raise error
    except BaseException:
        record = logging.getLogger("x").makeRecord("x", logging.ERROR, "f", 1, "it failed", (), sys.exc_info())
    fields: dict[str, object] = json.loads(JsonLines("analyser").format(record))
    return fields


def test_a_log_line_carries_the_remedy() -> None:
    line = formatted(ConfigError("receiver.port: too large"))
    assert (line["error"], line["role"]) == ("receiver.port: too large", "analyser")
    assert "Correct the named field" in str(line["remedy"])


def test_words_of_libraries_that_quote_data_elements_stay_out_of_the_log() -> None:
    with pytest.raises(ValueError, match="Smith") as caught:
        DSfloat("Smith^John")
    assert "Smith" not in json.dumps(formatted(caught.value))


def test_what_any_module_logs_about_a_study_names_it() -> None:
    record = logging.getLogger("engines").makeRecord("engines", logging.INFO, "f", 1, "said", (), None)
    with about("ab12"):
        inside = json.loads(JsonLines("analyser").format(record))
    outside = json.loads(JsonLines("analyser").format(record))
    assert inside["study"] == "ab12"
    assert "study" not in outside
