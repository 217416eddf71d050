"""How many unary calls a process works on at once, so that overload is refused instead of collapsed under.

More calls than `usual_calls` only wait for each other, mostly for a connection to Postgres. A short burst of them is
worked off; when there were more for a moment, those that come are refused before they cost anything, and what was let
in is answered in time. Calls that wait for a busy interpreter aren't seen here, but at the gateway, which has a limit
of its own (deploy/envoy).
"""

import structlog

from services.platform.config import Settings
from services.platform.errors import DomainError
from taskflow.error.v1 import error_reason_pb2 as reasons

log = structlog.get_logger()

# A burst lasts no longer than this (seconds).
_MOMENT = 0.5
# A process that didn't run for longer (seconds) than this between two calls hasn't waited for anybody.
_STEP = 0.05
# What gathered while nothing was answered is worked off within this time (seconds).
_AFTERMATH = 5.0


class Crowd:
    """Counts calls; times are time.perf_counter()."""

    def __init__(self, settings: Settings) -> None:
        self._usual = settings.usual_calls
        self._few = settings.usual_calls // 2
        self._most = settings.max_calls
        self._calls = 0
        # Since when there have been more than usual.
        self._since: float | None = None
        # For how long (seconds) no call has been answered, as those that came meanwhile saw it, and when one came last.
        self._still = 0.0
        self._came = 0.0
        # When it was noticed last that nothing is answered.
        self._outage = float("-inf")
        self._refused = 0

    def enter(self, now: float) -> DomainError | None:
        """None when the call may go on; it has to `leave` then."""
        if self._calls >= self._few and (refusal := self._refusal(now)):
            return refusal
        self._calls += 1
        return None

    def leave(self, now: float, *, answered: bool) -> None:
        self._calls -= 1
        if answered:
            self._still = 0.0
        # Not as soon as there's room for one: it's taken by the next, and the burst would begin anew.
        if self._since is not None and self._calls <= self._few:
            self._disperse()

    def _refusal(self, now: float) -> DomainError | None:
        self._still += min(now - self._came, _STEP)
        self._came = now
        if self._calls and self._still > _MOMENT:
            # It's not that there are too many: something that all of them need doesn't answer.
            self._outage = now
            return DomainError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE)
        if self._calls < self._usual:
            return None
        if self._since is None:
            self._since = now
        if now - self._since < _MOMENT and self._calls < self._most:
            return None
        if now - self._outage < _AFTERMATH:
            return DomainError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE)
        if not self._refused:
            log.warning("overloaded", calls=self._calls)
        self._refused += 1
        return DomainError(reasons.ERROR_REASON_OVERLOADED)

    def _disperse(self) -> None:
        self._since = None
        if self._refused:
            log.warning("no longer overloaded", refused=self._refused)
            self._refused = 0
