"""A share of the pool's connections, and of the database's time, for every user and workspace (docs/adr/0014)."""

import asyncio
import time
from collections.abc import AsyncIterator, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType

import psycopg_pool

from services.platform.config import Settings
from services.platform.rpc.caller_limits import Limit, ScopeName, caller_keys, limit_reached
from services.platform.turns import Keys, Turns

# Longest wait for a connection, and for a turn to search (seconds).
CONNECTION_WAIT = 5.0
# Shortest wait for the pool itself (seconds), after a long one for a place.
_LEAST_WAIT = 0.1
# The searches of a process that run at once, of one user, and of one workspace. Each keeps a processor busy.
_SEARCHES = 3
_USER_SEARCHES = 1
_WORKSPACE_SEARCHES = 2
# The window (seconds) of the budgets for searches.
_WINDOW = 60.0
# Delay that a caller is told whose searches or connections are all in use (seconds).
_RETRY_AFTER = 1.0
# Budgets that are whole again are forgotten when there are this many, or twice as many as aren't.
_FEW_BUDGETS = 1_000

_SCOPES: tuple[ScopeName, ...] = ("user", "workspace")


class DatabaseShares:
    """The shares of one process. Callers are those of `caller_keys`; background work only takes its turn."""

    def __init__(self, settings: Settings) -> None:
        size = settings.database_pool_size
        most = max(1, size - 1)
        limits = (min(settings.user_connections, most), min(settings.workspace_connections, most))
        answers = _Answers()
        self._connections = _Places(Turns(size, limits), "database_connections", answers)
        self._searches = _Places(
            Turns(_SEARCHES, (_USER_SEARCHES, _WORKSPACE_SEARCHES)), "searches_at_once", answers
        )
        self._budgets = Budgets((settings.user_search_seconds, settings.workspace_search_seconds))

    def connection(self) -> AbstractAsyncContextManager[float]:
        """Holds a place among the connections, and yields how long (seconds) the caller may still wait for one.

        Raises CALLER_LIMIT_REACHED, or PoolTimeout when all are in use or the database doesn't respond.
        """
        return self._connections.hold(caller_keys.get())

    @asynccontextmanager
    async def search(self) -> AsyncIterator[None]:
        """Holds a place among the searches and charges the time. Raises as `connection`."""
        keys = caller_keys.get()
        self._budgets.check(keys)
        async with self._searches.hold(keys):
            # Others of the same user or workspace may have used the budget up meanwhile.
            self._budgets.check(keys)
            started = time.monotonic()
            try:
                yield
            finally:
                self._budgets.charge(keys, time.monotonic() - started)


class _Place(AbstractAsyncContextManager[float]):
    """A place, for which a caller waits for CONNECTION_WAIT at most. Yields the rest of that time (seconds).

    A class, because a generator would cost each call several microseconds more.
    """

    __slots__ = ("_keys", "_places")

    def __init__(self, places: "_Places", keys: Keys) -> None:
        self._places = places
        self._keys = keys

    async def __aenter__(self) -> float:
        places = self._places
        if places.turns.take_at_once(self._keys):
            return CONNECTION_WAIT
        since = time.monotonic()
        try:
            async with asyncio.timeout(CONNECTION_WAIT):
                await places.turns.take(self._keys)
        except TimeoutError:
            raise places.refusal(self._keys, since) from None
        return max(_LEAST_WAIT, since + CONNECTION_WAIT - time.monotonic())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._places.answers.note(self._keys)
        self._places.turns.give_back(self._keys)


class _Places:
    """The places of one kind; `limit` is the name of what a caller may hold of them."""

    def __init__(self, turns: Turns, limit: Limit, answers: "_Answers") -> None:
        self.turns = turns
        self.answers = answers
        self._limit = limit

    def hold(self, keys: Keys) -> _Place:
        return _Place(self, keys)

    def refusal(self, keys: Keys, since: float) -> Exception:
        """The error for a caller that has waited in vain since that time (time.monotonic()).

        The caller's limit is to blame only if the database answered other callers meanwhile. All connections are in
        use when it answers too slowly.
        """
        at_limit = self.turns.limiting(keys)
        full = self._limit == "database_connections" and not self.turns.free
        if at_limit is None or full or not self.answers.others(keys, since):
            return psycopg_pool.PoolTimeout("no place was given back")
        return limit_reached(self._limit, _SCOPES[at_limit], _RETRY_AFTER)


class _Answers:
    """When the database last answered a caller (time.monotonic()), and when it last answered another one before."""

    def __init__(self) -> None:
        self._newest: Hashable = None
        self._newest_at = 0.0
        self._other_at = 0.0

    def note(self, keys: Keys) -> None:
        first = keys[0] if keys else None
        if first != self._newest:
            self._newest, self._other_at = first, self._newest_at
        self._newest_at = time.monotonic()

    def others(self, keys: Keys, since: float) -> bool:
        """Whether it has answered callers other than this one since then."""
        own = bool(keys) and keys[0] == self._newest
        return (self._other_at if own else self._newest_at) >= since


class Budgets:
    """Seconds per minute, by key: `seconds[n]` for the n-th key. What was used is forgiven evenly over the minute."""

    def __init__(self, seconds: tuple[float, ...]) -> None:
        self._seconds = seconds
        # The seconds that are used, and when (time.monotonic()) that was so.
        self._used: dict[Hashable, tuple[float, float]] = {}
        self._sweep_at = _FEW_BUDGETS

    def check(self, keys: Keys) -> None:
        """Raises CALLER_LIMIT_REACHED when a budget is used up."""
        now = time.monotonic()
        for key, seconds, scope in zip(keys, self._seconds, _SCOPES, strict=False):
            over = self._at(key, seconds, now) - seconds
            if over >= 0:
                # When a tenth of the budget is free again.
                raise limit_reached(
                    "database_time", scope, (over + 0.1 * seconds) * _WINDOW / seconds
                )

    def charge(self, keys: Keys, used: float) -> None:
        now = time.monotonic()
        for key, seconds in zip(keys, self._seconds, strict=False):
            self._used[key] = (self._at(key, seconds, now) + used, now)
        if len(self._used) >= self._sweep_at:
            # After the whole window nothing of a budget is used any more, unless it was overdrawn.
            least = min(self._seconds)
            self._used = {
                key: (spent, at)
                for key, (spent, at) in self._used.items()
                if spent > (now - at) * least / _WINDOW
            }
            self._sweep_at = max(_FEW_BUDGETS, 2 * len(self._used))

    def __len__(self) -> int:
        return len(self._used)

    def _at(self, key: Hashable, seconds: float, now: float) -> float:
        spent, at = self._used.get(key, (0.0, now))
        return max(0.0, spent - (now - at) * seconds / _WINDOW)
