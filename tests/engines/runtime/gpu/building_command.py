"""`onescan-engines` whose builds work on a simulated GPU: for tests, which run it in a process of its own."""

from __future__ import annotations

import functools

from engines.buildprocess import ChildBuild
from engines.cli import main
from engines.commands import building

building.ChildBuild = functools.partial(ChildBuild, module="tests.engines.runtime.gpu.building_child")  # type: ignore[misc]

if __name__ == "__main__":
    main()
