"""The words that every part of a manifest is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$")]
"""A word that may stand in a path, a topic and a table: lower case, no separator."""
Version = Annotated[str, StringConstraints(pattern=r"^[0-9][0-9A-Za-z.+-]{0,31}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Interval = tuple[Share, Share]
"""95 % confidence interval (low, high)."""
PositiveMm = Annotated[float, Field(gt=0, le=1000)]
Voxels = Annotated[int, Field(ge=1, le=1024)]
Size = tuple[Voxels, Voxels, Voxels]
HU = Annotated[float, Field(ge=-32768, le=32767)]


class Part(BaseModel):
    """Base of everything in a manifest: frozen, nothing unknown, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def refuse_repeats(names: Iterable[str], kind: str) -> None:
    """ValueError if one of `names` occurs twice."""
    if repeated := sorted(name for name, n in Counter(names).items() if n > 1):
        raise ValueError(f"{kind} named twice: {', '.join(repeated)}")
