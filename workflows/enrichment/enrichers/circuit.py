"""A circuit breaker: fails calls of a failing endpoint at once, so that activities don't pile up on its timeout."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from workflows.enrichment.enrichers.types import RetryableModelError

# Five failures in a row are more than one burst of 429; half a minute lets an endpoint restart.
FAILURES_TO_OPEN: Final = 5
OPEN_SECONDS: Final = 30.0


class Circuit:
    """Closed: calls pass. Open: calls fail at once. After the pause a single call probes the endpoint.

    Only `RetryableModelError` counts as a failure: any other answer, even a refusal or nonsense, proves that the
    endpoint responds. One per process and endpoint; not thread-safe.
    """

    def __init__(
        self,
        failures_to_open: int = FAILURES_TO_OPEN,
        open_seconds: float = OPEN_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures_to_open = failures_to_open
        self._open_seconds = open_seconds
        self._clock = clock
        self._failures = 0
        self._open_until: float | None = None
        self._probing = False

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Wraps one call. While open, raises `RetryableModelError` with the remaining seconds."""
        probe = self._admit()
        try:
            yield
        except RetryableModelError:
            self._failed(probe)
            raise
        except Exception:
            self._answered(probe)
            raise
        except BaseException:
            # The probing call was cancelled without a result, so the next call may probe.
            self._probing = self._probing and not probe
            raise
        else:
            self._answered(probe)

    def _admit(self) -> bool:
        if self._open_until is None:
            return False
        remaining = self._open_until - self._clock()
        if remaining > 0:
            raise RetryableModelError("the model endpoint keeps failing", remaining)
        if self._probing:
            raise RetryableModelError("the model endpoint is being probed", self._open_seconds)
        self._probing = True
        return True

    def _failed(self, probe: bool) -> None:
        self._failures += 1
        if probe or (self._open_until is None and self._failures >= self._failures_to_open):
            self._open_until = self._clock() + self._open_seconds
        self._probing = self._probing and not probe

    def _answered(self, probe: bool) -> None:
        # A call from before the circuit opened doesn't close it; only the probe does.
        if probe or self._open_until is None:
            self._failures = 0
            self._open_until = None
        self._probing = self._probing and not probe
