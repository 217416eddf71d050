"""A share of the process for every user and every workspace (docs/adr/0014).

A call takes its user's share, and its workspace's if the request names the workspace and the user has been seen to be a
member: otherwise strangers could use up a workspace's share. While other callers are there, a caller above the steady
rate waits instead of being refused, as long as that wait is short. Calls of TaskFlow's own processes take no share.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from services.platform.config import Settings
from services.platform.rpc.caller_limits import ScopeName, caller_keys, limit_reached

# A caller that was away may make this many seconds' calls at once.
_BURST_SECONDS = 1.0
# Longest wait (seconds) for a turn at the steady rate. A call that would wait longer is refused.
_LONGEST_WAIT = 1.0
# Calls of a user that run at once while other users call: as many as the CLI's import makes. Each delays others by
# about a millisecond.
_RUNNING = 8
# For how long (seconds) after its last call another caller counts as there.
_PRESENT = 5.0
# Delay that callers over their number of calls or streams are told before a retry (seconds).
_RETRY_AFTER = 1.0
# Pairs of user and workspace that are known as memberships, the latest used ones.
_MEMBERSHIPS = 20_000
# Idle shares are forgotten when there are this many, or twice as many as are in use.
_FEW_SHARES = 1_000

K = TypeVar("K", bound=Hashable)


class Share:
    """What a user or a workspace uses of this process at present."""

    __slots__ = ("calls", "running", "spent_until", "streams", "waiting")

    def __init__(self) -> None:
        self.calls = 0
        self.running = 0
        self.streams = 0
        # The calls so far, at the steady rate, take until then (time.monotonic()).
        self.spent_until = 0.0
        # Calls that wait for an earlier call of the same user to end.
        self.waiting: deque[asyncio.Future[None]] = deque()

    def idle(self, now: float) -> bool:
        return not self.calls and not self.streams and self.spent_until <= now


class Scope(Generic[K]):
    """The shares of all users, or of all workspaces, by id. Keeps only those in use."""

    def __init__(
        self, name: ScopeName, *, calls: int, calls_per_second: float, streams: int
    ) -> None:
        self.name: ScopeName = name
        self._calls = calls
        self._interval = 1 / calls_per_second
        self._streams = streams
        self._shares: dict[K, Share] = {}
        self._sweep_at = _FEW_SHARES
        # The two callers that called last, newest first, and when.
        self._newest: K | None = None
        self._newest_at = -_PRESENT
        self._other: K | None = None
        self._other_at = -_PRESENT

    def __len__(self) -> int:
        return len(self._shares)

    def start_call(self, key: K, now: float) -> tuple[Share, float]:
        """Counts a call. Returns the share, and how long (seconds) the call has to wait for its turn.

        Raises CALLER_LIMIT_REACHED.
        """
        share = self._share(key, now)
        if share.calls >= self._calls:
            raise limit_reached("calls_at_once", self.name, _RETRY_AFTER)
        wait = self._pace(share, key, now)
        share.calls += 1
        return share, wait

    def start_stream(self, key: K, now: float) -> tuple[Share, float]:
        """As `start_call`, for a stream. Its opening counts as a call for the rate."""
        share = self._share(key, now)
        if share.streams >= self._streams:
            raise limit_reached("streams", self.name, _RETRY_AFTER)
        wait = self._pace(share, key, now)
        share.streams += 1
        return share, wait

    def _pace(self, share: Share, key: K, now: float) -> float:
        """Takes a place in the rate and returns the wait for it (seconds). Raises CALLER_LIMIT_REACHED."""
        if key != self._newest:
            self._other, self._other_at = self._newest, self._newest_at
            self._newest = key
        self._newest_at = now
        spent_until = max(share.spent_until, now) + self._interval
        wait = max(0.0, spent_until - now - _BURST_SECONDS)
        if wait:
            if not self.others(key, now):
                # Nobody is there to be delayed. The caller goes on, with its burst used up.
                spent_until, wait = now + _BURST_SECONDS, 0.0
            elif wait > _LONGEST_WAIT:
                raise limit_reached("calls_per_second", self.name, wait)
        share.spent_until = spent_until
        return wait

    def others(self, key: K, now: float) -> bool:
        """Whether another caller has called lately."""
        if self._newest != key:
            return now - self._newest_at < _PRESENT
        return self._other is not None and now - self._other_at < _PRESENT

    def _share(self, key: K, now: float) -> Share:
        share = self._shares.get(key)
        if share is None:
            if len(self._shares) >= self._sweep_at:
                self._shares = {
                    kept: share for kept, share in self._shares.items() if not share.idle(now)
                }
                self._sweep_at = max(_FEW_SHARES, 2 * len(self._shares))
            share = self._shares[key] = Share()
        return share


class Shares:
    """The shares of a process, for the gate."""

    def __init__(self, settings: Settings) -> None:
        self.users = Scope[Hashable](
            "user",
            calls=settings.user_calls,
            calls_per_second=settings.user_calls_per_second,
            streams=settings.user_streams,
        )
        self.workspaces = Scope[Hashable](
            "workspace",
            calls=settings.workspace_calls,
            calls_per_second=settings.workspace_calls_per_second,
            streams=settings.workspace_streams,
        )
        self._memberships: OrderedDict[tuple[Hashable, str], None] = OrderedDict()

    def is_member(self, user: Hashable, workspace: str) -> bool:
        """Whether the answer to an earlier call has shown it."""
        return (user, workspace) in self._memberships

    def remember_member(self, user: Hashable, workspace: str) -> None:
        pair = (user, workspace)
        self._memberships[pair] = None
        self._memberships.move_to_end(pair)
        if len(self._memberships) > _MEMBERSHIPS:
            self._memberships.popitem(last=False)

    def forget_member(self, user: Hashable, workspace: str) -> None:
        self._memberships.pop((user, workspace), None)


class Held:
    """What one call or stream holds of the shares. `leave` gives it back."""

    __slots__ = (
        "_running",
        "_shares",
        "_stream",
        "_taken",
        "_user",
        "_wait",
        "_workspace",
        "proven",
    )

    def __init__(self, shares: Shares, *, stream: bool = False) -> None:
        self._shares = shares
        self._stream = stream
        # The user's share, then the workspace's.
        self._taken: list[Share] = []
        self._user: Hashable = None
        self._workspace = ""
        self._running = False
        self._wait = 0.0
        # Whether an answer has shown that the user may see the workspace.
        self.proven = False

    def take(self, user: int) -> None:
        """Takes the user's share. `user` is the id as a number, whose hash is cheap. Raises CALLER_LIMIT_REACHED."""
        self._user = user
        self._start(self._shares.users, user)
        caller_keys.set((user,))

    def join(self, workspace: str) -> None:
        """Takes the workspace's share if the user is known as a member. Raises CALLER_LIMIT_REACHED.

        Otherwise the answer will show whether the user is one.
        """
        self._workspace = workspace
        if self._shares.is_member(self._user, workspace):
            self._join()

    def succeeded(self) -> None:
        """The servicer has authorised the caller. A stream now takes its workspace's share, if it hasn't yet.

        Raises CALLER_LIMIT_REACHED.
        """
        self.proven = True
        if self._workspace:
            self._shares.remember_member(self._user, self._workspace)
            if self._stream and len(self._taken) == 1:
                self._join()

    def not_found(self) -> None:
        """The user may be a member no longer; the next answer shows it."""
        self._shares.forget_member(self._user, self._workspace)

    def _join(self) -> None:
        self._start(self._shares.workspaces, self._workspace)
        caller_keys.set((self._user, self._workspace))

    def _start(self, scope: Scope[Hashable], key: Hashable) -> None:
        now = time.monotonic()
        share, wait = (scope.start_stream if self._stream else scope.start_call)(key, now)
        self._taken.append(share)
        self._wait = max(self._wait, wait)

    async def turn(self) -> None:
        """Waits until it's this call's turn; usually it is at once."""
        if self._wait > 0:
            await asyncio.sleep(self._wait)
        if self._stream:
            return
        share = self._taken[0]
        if share.running >= _RUNNING and self._shares.users.others(self._user, time.monotonic()):
            turn = asyncio.get_running_loop().create_future()
            share.waiting.append(turn)
            try:
                # The call that ends counts this one as running.
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():
                    share.running -= 1
                    self._pass_on()
                raise
        else:
            share.running += 1
        self._running = True

    def leave(self) -> None:
        if self._stream:
            for share in self._taken:
                share.streams -= 1
            return
        for share in self._taken:
            share.calls -= 1
        if self._running:
            self._taken[0].running -= 1
            self._pass_on()

    def _pass_on(self) -> None:
        """Starts the user's calls that wait and may run now."""
        share = self._taken[0]
        while share.waiting and (
            share.running < _RUNNING or not self._shares.users.others(self._user, time.monotonic())
        ):
            turn = share.waiting.popleft()
            if not turn.done():
                share.running += 1
                turn.set_result(None)
