"""How often something may be asked for: a few at once, and then one in each interval. Pure; time is passed in, and monotonic.

Beside it how long to pause between rounds of questions.
"""

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


#: A round of questions to kube-proxy, or to the workers' pages, begins so long after the last one; the shorter where somebody waits for the
#: answer: a VIP that comes back has three seconds from the API to the routers, and passes both on its way.
ROUND_SECONDS, AWAITED_ROUND_SECONDS = 0.5, 0.1
#: A thousand questions are asked each ten seconds rather than each half.
QUESTION_SECONDS = 0.01


def pause_seconds(questions: int, awaited: bool) -> float:
    """The seconds until the next round of so many questions."""
    return max(AWAITED_ROUND_SECONDS if awaited else ROUND_SECONDS, questions * QUESTION_SECONDS)
