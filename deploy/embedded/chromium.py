"""Which Chromium can look at our pages here: Debian's package, Chrome, a snap, or the one that playwright fetched."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

_NAMES = ("chromium", "google-chrome-stable", "google-chrome", "chromium-browser", "chrome")
_FETCHED = "chromium-*/chrome-linux*/chrome"


@functools.lru_cache(maxsize=1)
def find_chromium() -> str | None:
    """The path of the first one that really runs (Ubuntu's `chromium-browser` may only tell you to install a snap)."""
    named = [path for name in _NAMES if (path := shutil.which(name))]
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    fetched = [str(path) for path in sorted(cache.glob(_FETCHED), reverse=True)]
    return next((path for path in [*named, *fetched] if _runs(path)), None)


def _runs(path: str) -> bool:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return said.returncode == 0 and "Chrom" in said.stdout
