"""Measures one contestant in this process: ``python -m benchmarks.queue.child``.

The arguments are the contestant, the measure, the database's URL, and the measure's options as
JSON. The last line of the output is what was measured, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Final

from benchmarks.queue.contestants import contestant
from benchmarks.queue.measures import MEASURES, Figures

_TIMEOUT: Final = 300.0
"""Seconds after which a job must have got lost."""


async def _measure(name: str, measure: str, url: str, options: str) -> Figures:
    async with asyncio.timeout(_TIMEOUT):
        return await MEASURES[measure](contestant(name, url), url, **json.loads(options))


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(*sys.argv[1:5]))))
