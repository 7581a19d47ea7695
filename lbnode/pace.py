"""How often something may be asked for: a few at once, and then one in each interval. Pure; time is passed in, and monotonic."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Pace:
    """At most ``at_once + W / interval_seconds`` in any ``W`` seconds.

    It is the virtual scheduling of the generic cell rate algorithm (ITU-T I.371, appendix I), whose one number is the second at which all that was
    granted would have been due, one interval after the other.
    """

    at_once: int
    interval_seconds: float
    due_seconds: float = float("-inf")

    def wait_seconds(self, now: float) -> float:
        """How long the next one has to wait; 0 when it may go now."""
        return max(0.0, self.due_seconds - (self.at_once - 1) * self.interval_seconds - now)

    def taken(self, now: float) -> Pace:
        """After one more, which went at ``now``."""
        return replace(self, due_seconds=max(self.due_seconds, now) + self.interval_seconds)
