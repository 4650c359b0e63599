"""The statements of `queries.sql`, by name.

They are bytes: psycopg takes bytes as a query written by us, where a plain `str` might have come from a user.
"""

from __future__ import annotations

import re
from importlib import resources

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def parse(text: str) -> dict[str, bytes]:
    """Statements by name; what stands before the first name is a preface."""
    parts = _NAME.split(text)[1:]
    named = dict(zip(parts[::2], parts[1::2], strict=True))
    if len(named) * 2 != len(parts):
        raise ValueError("two statements of queries.sql have one name")
    return {name: sql.strip().encode() for name, sql in named.items()}


SQL = parse(resources.files(__package__).joinpath("queries.sql").read_text(encoding="utf-8"))
