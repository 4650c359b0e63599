"""A receiver with the hatch in a process of its own, to be killed: says that it runs, then serves until it is ended."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from appliance.intake.side_doors import SideDoorSettings
from tests.appliance.intake.stand import Stand

if __name__ == "__main__":
    state = Path(sys.argv[1])
    print(Stand(state, side_doors=SideDoorSettings(hatch=state / "run")).port, flush=True)
    threading.Event().wait()
