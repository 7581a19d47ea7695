"""One command at a time: what changes a lab holds its lock, and so the runs of `up`, `down`, `deploy` and `destroy` cannot undo each other's work."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from lab import topology


class Busy(RuntimeError):
    """Another command holds the lab."""


@contextmanager
def held(*, alone: bool) -> Iterator[None]:
    """Hold the lab's lock, against everybody (`alone`) or only against those who want it alone.

    Raises Busy at once when that cannot be.
    """
    descriptor = _locked(fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(how: int) -> int:
    while True:
        topology.STATE.mkdir(exist_ok=True)
        # The lab without a name is locked by its checkout, which stays when `down` removes the state folder.
        place = topology.STATE if topology.NAME else topology.ROOT
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(place)):  # noqa: PTH116 - beside fstat
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise Busy(
                "another `python -m lab` (up, down, deploy or destroy) is at work in this checkout: wait for it"
            ) from None
        except FileNotFoundError:
            pass
        # `down` removed the folder between opening and locking: what is locked is nobody's any more.
        os.close(descriptor)
