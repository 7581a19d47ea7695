"""Reference cycles are looked for seldom, and not in the middle of a burst of changes.

Left to itself, Python looks through every object that there is whenever enough new ones stayed: of a cluster of 1,000 Services with 100 endpoints
each that is a million objects and a quarter to half a second, each four seconds while endpoints change; meanwhile nothing is acted on. Passes
leave no cycles (none in 300 of them, by ``gc.callbacks``); those of a broken connection or of an error can wait.
"""

from __future__ import annotations

import asyncio
import gc

#: New objects that stay until the young ones are looked through, which takes milliseconds; and so many such looks until the middle-aged are.
YOUNG_OBJECTS, YOUNG_LOOKS = 10_000, 20
#: From one look through everything to the next.
COLLECT_SECONDS = 600.0
#: Looks through the middle-aged until Python would look through everything by itself: it never comes to that.
_NEVER = 1_000_000_000


async def collect_seldom() -> None:
    """Look for cycles at this pace until cancelled, and then at Python's own again."""
    usual = gc.get_threshold()
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_LOOKS, _NEVER)
    try:
        while True:
            await asyncio.sleep(COLLECT_SECONDS)
            gc.collect()
    finally:
        gc.set_threshold(*usual)
