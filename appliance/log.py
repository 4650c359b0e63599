"""Logs: one JSON object a line, or journald's fields where systemd reads our standard error.

A study is named by its pseudonym. Patient names, ids and plain UIDs never reach a log: records carry them nowhere, and
`extra=` takes only plain values.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from core.errors import OneScanError

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_NOISY = ("tuf", "urllib3", "uvicorn", "asyncio", "paho")
_QUOTE_DATA = ("pynetdicom", "pydicom", "highdicom")
"""Libraries whose messages quote data elements, and those may be names: their words stay out of the log."""


_study: ContextVar[str] = ContextVar("study", default="")


@contextmanager
def about(pseudonym: str) -> Iterator[None]:
    """Every line logged inside, by whatever module, names this study."""
    token = _study.set(pseudonym)
    try:
        yield
    finally:
        _study.reset(token)


class JsonLines(logging.Formatter):
    """{"at", "level", "role", "from", "message", ...extra, "error", "remedy"}."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        at = dt.datetime.fromtimestamp(record.created, dt.timezone.utc)
        line: dict[str, object] = {
            "at": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "role": self._role,
            "from": record.name,
            "message": record.getMessage(),
        }
        if _study.get():
            line["study"] = _study.get()
        line.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        if record.exc_info and record.exc_info[1]:
            line.update(_error_fields(record.exc_info[1]))
        return json.dumps(line, default=str, ensure_ascii=False)


def _error_fields(error: BaseException) -> dict[str, object]:
    if isinstance(error, OneScanError):
        return {"error": str(error), "remedy": error.remedy()}
    frames = traceback.extract_tb(error.__traceback__)
    quotes_data = any(library in frame.filename for frame in frames for library in _QUOTE_DATA)
    what = type(error).__name__ if quotes_data else repr(error)
    return {"error": what, "trace": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]}


def set_up(role: str, level: int = logging.INFO) -> None:
    """Send this process's log to standard error, a JSON object a line; libraries only from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(role))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _QUOTE_DATA:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    logging.captureWarnings(False)
    warnings.filterwarnings("ignore", module="|".join(_QUOTE_DATA))
