"""A receiver in a process of its own, to be killed: prints its port, then serves until it is ended."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.appliance.intake.stand import Stand

if __name__ == "__main__":
    reserve = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    stand = Stand(Path(sys.argv[1]), quiet_seconds=float(sys.argv[2]), reserve_bytes=reserve)
    print(stand.port, flush=True)
    threading.Event().wait()
