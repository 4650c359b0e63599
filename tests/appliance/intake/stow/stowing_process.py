"""A receiver with STOW-RS in a process of its own, to be killed: prints its port, then serves until it is ended."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.appliance.intake.stow.web import box, port

if __name__ == "__main__":
    with box(Path(sys.argv[1])) as stand:
        print(port(stand), flush=True)
        threading.Event().wait()
