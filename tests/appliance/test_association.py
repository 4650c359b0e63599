"""Responses come to who asked, also where pynetdicom's own thread of an association is slow to stop."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.presentation import build_context

from appliance.association import Peer, Timeouts, association
from tests.appliance.intake.stand import AE_TITLE, running

CONTEXTS = [build_context("1.2.840.10008.1.1")]


@pytest.fixture
def slow_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads are off the processor for a while, as happens on a busy machine: an association's own, right after it
    was told to go on, and the one that has just sent a request, for a little longer."""
    wait, get_msg = threading.Event.wait, DIMSEServiceProvider.get_msg

    def wait_and_lag(event: threading.Event, timeout: float | None = None) -> bool:
        told = wait(event, timeout)
        if timeout is None and isinstance(threading.current_thread(), Association):
            time.sleep(0.1)
        return told

    def lag_and_take(provider: DIMSEServiceProvider, block: bool = False) -> Any:
        if block:
            time.sleep(0.3)
        return get_msg(provider, block)

    monkeypatch.setattr(threading.Event, "wait", wait_and_lag)
    monkeypatch.setattr(DIMSEServiceProvider, "get_msg", lag_and_take)


@pytest.mark.usefixtures("slow_threads")
def test_no_response_is_lost_to_pynetdicoms_own_thread(tmp_path: Path) -> None:
    with running(tmp_path) as stand:
        peer = Peer("127.0.0.1", stand.port, AE_TITLE)
        with association(peer, "SCANNER1", CONTEXTS, Timeouts(response_s=5.0)) as opened:
            assert [opened.send_c_echo().get("Status") for _ in range(5)] == [0] * 5


@pytest.mark.usefixtures("slow_threads")
def test_without_our_gate_it_is_lost(tmp_path: Path) -> None:
    """The flaw that `keep_responses` is for; when this fails, pynetdicom has mended it, and ours can go."""
    ae: Any = AE("SCANNER1")
    ae.dimse_timeout = 1
    with running(tmp_path) as stand:
        opened = ae.associate("127.0.0.1", stand.port, contexts=CONTEXTS, ae_title=AE_TITLE)
        assert opened.is_established
        assert None in [opened.send_c_echo().get("Status") for _ in range(5) if opened.is_established]
        opened.abort()
