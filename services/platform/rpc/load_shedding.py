"""Counts the unary calls under way in a process, and rejects new calls while no call is answered.

The gateway limits concurrency (deploy/envoy), because a busy Python process can't count calls that it hasn't read yet.
This module detects a standstill: calls arrive and none is answered, because Postgres is away or hangs. New calls then
fail at once, before so many wait that the gateway rejects calls for overload.
"""

import structlog

from services.platform.config import Settings
from services.platform.rpc.errors import DomainError
from taskflow.error.v1 import error_reason_pb2 as reasons

log = structlog.get_logger()

# A standstill: the process answered no call for this long (seconds), while many calls were under way. Many is half of
# what the gateway lets through.
_STANDSTILL = 0.5
# Cap on the counted gap between two arriving calls (seconds): a longer gap means that this process itself stalled.
_LONGEST_GAP = 0.05


class LoadShedder:
    """Counts the calls of one process. All times are those of time.perf_counter() (seconds)."""

    def __init__(self, settings: Settings) -> None:
        self._few_calls = settings.gateway_calls // 2
        self._most_calls = settings.max_calls
        self._calls = 0
        self._last_arrival = 0.0
        # Seconds from the last answered call to the last arriving call.
        self._unanswered = 0.0
        self._rejected = 0

    def enter(self, now: float) -> DomainError | None:
        """Counts an arriving call; returns the error for a rejected call, None for an admitted call.

        The gate calls `leave` when an admitted call ends.
        """
        self._unanswered += min(now - self._last_arrival, _LONGEST_GAP)
        self._last_arrival = now
        if self._calls >= self._few_calls and (rejection := self._rejection()):
            return rejection
        self._calls += 1
        return None

    def leave(self, *, answered: bool) -> None:
        """Counts the end of an admitted call. `answered`: its result proves that Postgres and the like respond."""
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
