"""How many unary calls are under way in a process, and whether anything comes of them.

That there are too many is seen at the gateway, which counts them (deploy/envoy): calls that wait for a busy interpreter
aren't known here yet. What is seen here is a standstill: calls come and none is answered, since Postgres is away or
hangs. Those that come then are told so at once, instead of waiting until the gateway takes them for too many.
"""

import structlog

from services.platform.config import Settings
from services.platform.errors import DomainError
from taskflow.error.v1 import error_reason_pb2 as reasons

log = structlog.get_logger()

# Without an answer for this long (seconds) it's a standstill, if half as many calls wait as the gateway lets through at
# once for each process.
_STANDSTILL = 0.5
# A process that didn't run for longer (seconds) than this between two calls hasn't waited for anybody.
_STEP = 0.05


class Crowd:
    """Counts calls; times are time.perf_counter()."""

    def __init__(self, settings: Settings) -> None:
        self._few = settings.usual_calls // 2
        self._most = settings.max_calls
        self._calls = 0
        # When a call came last, and for how long (seconds) none had been answered then.
        self._came = 0.0
        self._unanswered = 0.0
        self._refused = 0

    def enter(self, now: float) -> DomainError | None:
        """None when the call may go on; it has to `leave` then."""
        self._unanswered += min(now - self._came, _STEP)
        self._came = now
        if self._calls >= self._few and (refusal := self._refusal()):
            return refusal
        self._calls += 1
        return None

    def leave(self, *, answered: bool) -> None:
        self._calls -= 1
        if answered:
            self._unanswered = 0.0
            if self._refused:
                log.warning("calls are answered again", refused=self._refused)
                self._refused = 0

    def _refusal(self) -> DomainError | None:
        if self._unanswered > _STANDSTILL:
            if not self._refused:
                log.warning("no call is answered", calls=self._calls)
            self._refused += 1
            return DomainError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE)
        if self._calls >= self._most:
            return DomainError(reasons.ERROR_REASON_OVERLOADED)
        return None
