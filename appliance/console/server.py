"""Uvicorn's server with a slower pulse: its own main loop wakes ten times a second, which an idle box need not."""

from __future__ import annotations

import asyncio

import uvicorn

PULSE_S = 1.0  # how old the Date header may be, and how long a stop may take to be seen
_TICKS_A_SECOND = 10  # uvicorn renews its Date header at every tenth tick


class PageServer(uvicorn.Server):
    """Serves pages; `should_exit` ends it within a second."""

    async def main_loop(self) -> None:
        """Uvicorn's, with `PULSE_S` between ticks."""
        while not await self.on_tick(_TICKS_A_SECOND):
            await asyncio.sleep(PULSE_S)
