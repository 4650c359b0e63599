"""A receiver in a process of its own, to be killed: prints its port, then serves until it is ended."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.appliance.intake.stand import Stand

if __name__ == "__main__":
    more = {name: int(value) for name, value in (argument.split("=") for argument in sys.argv[3:])}
    stand = Stand(Path(sys.argv[1]), quiet_seconds=float(sys.argv[2]), **more)
    print(stand.port, flush=True)
    threading.Event().wait()
