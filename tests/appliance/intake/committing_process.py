"""A receiver with storage commitment in a process of its own, to be killed: prints its port, then serves."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.appliance.intake.test_commitment import Committing

if __name__ == "__main__":
    print(Committing(Path(sys.argv[1]), {"SCANNER1": int(sys.argv[2])}).port, flush=True)
    threading.Event().wait()
