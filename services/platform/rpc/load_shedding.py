"""Counts the unary calls under way in a process, and rejects new ones while none is answered.

The gateway limits concurrency (deploy/envoy): calls that wait for a busy interpreter can't be counted here yet. This
process detects a standstill: calls arrive and none is answered, because Postgres is away or hangs. New calls then fail
at once, before so many wait that the gateway rejects calls for overload.
"""

import structlog

from services.platform.config import Settings
from services.platform.rpc.errors import DomainError
from taskflow.error.v1 import error_reason_pb2 as reasons

log = structlog.get_logger()

# It's a standstill when no call was answered for this long (seconds) while at least half of the gateway's concurrency
# limit for this process is under way.
_STANDSTILL = 0.5
# Cap on the counted gap between two arrivals (seconds): after a longer one this process itself had stalled.
_LONGEST_GAP = 0.05


class LoadShedder:
    """Counts calls. Times are those of time.perf_counter()."""

    def __init__(self, settings: Settings) -> None:
        self._few_calls = settings.gateway_calls // 2
        self._most_calls = settings.max_calls
        self._calls = 0
        self._last_arrival = 0.0
        # Seconds from the last answer to the last arrival.
        self._unanswered = 0.0
        self._rejected = 0

    def enter(self, now: float) -> DomainError | None:
        """The error for a rejected call. None for an admitted one, which has to `leave` when it ends."""
        self._unanswered += min(now - self._last_arrival, _LONGEST_GAP)
        self._last_arrival = now
        if self._calls >= self._few_calls and (rejection := self._rejection()):
            return rejection
        self._calls += 1
        return None

    def leave(self, *, answered: bool) -> None:
        """`answered`: the end of the call proves that its dependencies respond."""
        self._calls -= 1
        if answered:
            self._unanswered = 0.0
            if self._rejected:
                log.warning("calls are answered again", rejected=self._rejected)
                self._rejected = 0

    def _rejection(self) -> DomainError | None:
        if self._unanswered > _STANDSTILL:
            if not self._rejected:
                log.warning("no call is answered", calls=self._calls)
            self._rejected += 1
            return DomainError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE)
        if self._calls >= self._most_calls:
            return DomainError(reasons.ERROR_REASON_OVERLOADED)
        return None
