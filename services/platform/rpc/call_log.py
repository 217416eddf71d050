"""Writes the log lines of calls."""

import structlog

from services.platform.config import Settings

log = structlog.get_logger()

# Codes of calls that need nobody's attention: they succeeded, or the client cancelled them.
_UNREMARKABLE = frozenset(("OK", "CANCELLED"))


class CallLog:
    """Writes one line for each call that failed, and at log level `debug` for every call.

    errors.py writes a further line for an unexpected exception.
    """

    def __init__(self, settings: Settings) -> None:
        # Decided once: building a line that isn't written would cost as much as the rest of the gate.
        self._all = settings.log_level == "debug"

    def ended(self, event: str, code: str, seconds: float) -> None:
        remarkable = code not in _UNREMARKABLE
        if remarkable or self._all:
            write = log.info if remarkable else log.debug
            write(event, code=code, milliseconds=round(seconds * 1e3, 1))
