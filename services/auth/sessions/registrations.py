"""How many accounts an address may register: each costs the hash of a password, and a mail to its owner."""

import time

from services.platform.rpc.caller_limits import limit_reached

_HOUR = 3600.0
# Addresses that have their full number of registrations again are forgotten when this many addresses are known, and
# then whenever the number of the others has doubled.
_FEW_ADDRESSES = 1_000


class Registrations:
    """Counts the registrations of each address at this process, `per_hour` at most."""

    def __init__(self, per_hour: int) -> None:
        self._interval = _HOUR / per_hour
        # The registrations of an address, evenly spread over the hour, take until then (time.monotonic()).
        self._spent_until: dict[str, float] = {}
        self._sweep_at = _FEW_ADDRESSES

    def __len__(self) -> int:
        return len(self._spent_until)

    def count(self, address: str) -> None:
        """Counts a registration. Raises CALLER_LIMIT_REACHED for one too many."""
        now = time.monotonic()
        spent_until = max(self._spent_until.get(address, now), now) + self._interval
        # Half an interval more, because sums of fractions aren't exact.
        over = spent_until - now - _HOUR
        if over > self._interval / 2:
            raise limit_reached("registrations", "address", over)
        self._spent_until[address] = spent_until
        if len(self._spent_until) >= self._sweep_at:
            self._spent_until = {
                kept: until for kept, until in self._spent_until.items() if until > now
            }
            self._sweep_at = max(_FEW_ADDRESSES, 2 * len(self._spent_until))
