"""Time limits: every piece of the training ends at a moment, not after a count, because a machine is lent for minutes."""

import math
import time


class Clock:
    """Share of a span that has passed, and a learning rate that follows it."""

    def __init__(self, seconds: float, deadline: float = math.inf) -> None:
        """Ends after `seconds` or at `deadline` (time.monotonic seconds), whichever comes first."""
        self.start = time.monotonic()
        self.span = max(1.0, min(seconds, deadline - self.start))

    def share(self) -> float:
        return (time.monotonic() - self.start) / self.span

    def over(self) -> bool:
        return self.share() >= 1

    def rate(self, peak: float, step: int, warmup: int = 100, floor: float = 0.01) -> float:
        """Linear warm-up over steps, then a cosine over time down to floor * peak."""
        return peak * min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, self.share()))))


def say(*words: object) -> None:
    print(f"[{time.monotonic() - _BORN:6.1f}]", *words, flush=True)


_BORN = time.monotonic()
