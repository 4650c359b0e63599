"""A receiver with MPPS in a process of its own, to be killed: prints its port, then serves until it is ended."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.appliance.intake.test_procedure_step import Stepping

if __name__ == "__main__":
    print(Stepping(Path(sys.argv[1])).port, flush=True)
    threading.Event().wait()
