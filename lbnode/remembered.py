"""What was worked out before and need not be worked out again: pure functions asked anew with the same inputs.

One change in a cluster of a thousand Services leaves nearly every input of the last pass in place. Inputs count as the same when they are the
same objects or equal; results are shared, so they have to be values. Asked without a memory, everything comes out the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from lbnode.model import VirtualKey, VirtualService, alike

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """The last result by key. What nobody asked for in the last round is forgotten at the end of this one."""

    def __init__(self) -> None:
        self._last: dict[Hashable, tuple[tuple[object, ...], Value]] = {}
        self._now: dict[Hashable, tuple[tuple[object, ...], Value]] = {}

    def get(self, key: Hashable, inputs: tuple[object, ...], work_out: Callable[[], Value]) -> Value:
        """The result for ``inputs``, which must be everything that ``work_out`` depends on; ``key`` is its place, once a round."""
        known = self._last.get(key)
        if known is None or known[0] != inputs:
            known = (inputs, work_out())
        self._now[key] = known
        return known[1]

    def again(self, key: Hashable, inputs: tuple[object, ...], work_out: Callable[[], Value]) -> Value:
        """As :meth:`get`, between two rounds: what the last one had otherwise is there for the next one as if it had asked so."""
        known = self._last.get(key)
        if known is None or known[0] != inputs:
            known = self._last[key] = (inputs, work_out())
        return known[1]

    def end_of_round(self) -> None:
        """Begin the next round."""
        self._last, self._now = self._now, {}


class Comparison:
    """Which services of two states are alike, each pair of the same two objects compared once."""

    def __init__(self) -> None:
        self._pairs: dict[VirtualKey, tuple[VirtualService, VirtualService, bool]] = {}

    def alike(self, wanted: VirtualService, observed: VirtualService) -> bool:
        """As :func:`lbnode.model.alike`."""
        known = self._pairs.get(wanted.key)
        if known is None or known[0] is not wanted or known[1] is not observed:
            known = self._pairs[wanted.key] = (wanted, observed, alike(wanted, observed))
        return known[2]

    def forget_but(self, keys: Iterable[VirtualKey]) -> None:
        """Keep what is known of these only, each named once."""
        kept = tuple(keys)
        if len(self._pairs) > len(kept):
            self._pairs = {k: self._pairs[k] for k in kept if k in self._pairs}
