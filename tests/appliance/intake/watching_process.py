"""A receiver with a watched folder in a process of its own, to be killed: says that it runs, then serves."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from appliance.intake import watched
from tests.appliance.intake.stand import Stand
from tests.appliance.intake.test_watched import watching

if __name__ == "__main__":
    watched.LOOK_S = 0.05  # type: ignore[misc]
    box, folder, after = sys.argv[1:]
    stand = Stand(Path(box), **watching(Path(folder), watched.AfterImport(after), 0.2))
    print(stand.port, flush=True)
    threading.Event().wait()
