"""A table at the end: how well ours agrees with each referee."""

from __future__ import annotations

import pytest

AGREEMENT: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if AGREEMENT:
        terminalreporter.section("agreement with the referees")
        for line in AGREEMENT:
            terminalreporter.write_line(line)
