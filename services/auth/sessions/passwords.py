"""Hashes passwords with Argon2id, in few threads and with a short queue, so that logins can't take over the machine."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from services.platform.rpc.caller_limits import limit_reached
from services.platform.rpc.errors import DomainError, invalid
from services.platform.rpc.nfc import nfc
from services.platform.turns import Turns
from taskflow.error.v1 import error_reason_pb2 as reasons

# Argon2id parameters: the first choice of the OWASP cheat sheet for password storage (19 MiB, 2 passes); about 20 ms.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
# Cores that may hash passwords: half of them, the same half in all processes of a machine.
_ALL_CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]
_CORES = _ALL_CORES[-max(1, len(_ALL_CORES) // 2) :]
# A call is refused once the oldest waiting call of its address has waited this long (seconds): threads slow down on a
# busy machine.
_LONGEST_WAIT = 1.0
# A call is refused once this many wait in its queue, or this many of its address: about a second of work for one
# thread. The gateway passes on more logins than one address may have waiting (deploy/local/envoy.py).
_QUEUE_LIMIT = 12
_ADDRESS_LIMIT = 10
# Delay that an address over its limit is told before a retry (seconds).
_RETRY_AFTER = 1.0
# Part of its time that a thread may spend on hashing: some 10 passwords a second. Hashing takes caches and memory
# bandwidth from everything else on the machine, whatever its priority.
_SHARE = 0.2
# The most processor time (seconds) that an idle thread saves up, and can then use for hashing without a pause.
_BURST = 0.04
# NIST SP 800-63B asks for at least 8, and for no limit below 64.
_FEWEST_CHARACTERS = 10
_MOST_CHARACTERS = 128

_T = TypeVar("_T")

_thread = threading.local()


def check_length(field: str, password: str) -> None:
    """Raises INVALID_REQUEST. Counts characters in NFC: keyboards differ in how many they send for one of them."""
    if not _FEWEST_CHARACTERS <= len(_canonical(password)) <= _MOST_CHARACTERS:
        raise invalid(field, f"must have {_FEWEST_CHARACTERS} to {_MOST_CHARACTERS} characters")


class Passwords:
    """Hashes and verifies passwords. Logins and new passwords have a queue each, and the threads serve both by turns.

    In a queue the addresses take turns. Both methods raise OVERLOADED when the queue is full, and
    CALLER_LIMIT_REACHED for an address that has too many waiting, or one for too long.
    """

    def __init__(self, hasher: PasswordHasher = _HASHER) -> None:
        self._hasher = hasher
        self._threads = ThreadPoolExecutor(
            len(_CORES), thread_name_prefix="argon2", initializer=_prepare
        )
        self._free_threads = Turns(len(_CORES))
        self._logins = _Queue()
        self._new = _Queue()
        # Verified when an account doesn't exist, so that the answer takes as long as for one that does.
        self._dummy_hash = hasher.hash(os.urandom(16))

    def check_queue(self, address: str = "", *, new: bool = False) -> None:
        """Raises what `verify`, or with `new` what `hash`, would raise now, so that a call can fail at no cost."""
        (self._new if new else self._logins).check(address)

    async def hash(self, password: str, address: str = "", *, login: bool = False) -> str:
        """Returns the hash of a new password. With `login` it is a login's password, whose stored hash is outdated."""
        queue = self._logins if login else self._new
        return await self._run(queue, address, lambda: self._hasher.hash(_canonical(password)))

    async def verify(self, password: str, stored: str | None, address: str = "") -> bool:
        """Whether the password matches the hash. Without a hash it is False, after the same time."""
        right = await self._run(
            self._logins, address, lambda: self._matches(password, stored or self._dummy_hash)
        )
        return right and stored is not None

    def outdated(self, stored: str) -> bool:
        """Whether the hash was made with parameters other than the current ones."""
        return self._hasher.check_needs_rehash(stored)

    def _matches(self, password: str, stored: str) -> bool:
        try:
            return self._hasher.verify(stored, _canonical(password))
        except VerificationError:
            return False

    async def _run(self, queue: "_Queue", address: str, work: Callable[[], _T]) -> _T:
        queue.check(address)
        async with queue.turn(address):
            await self._free_threads.take((queue,))

        def run() -> _T:
            _thread.pace.wait()
            try:
                return work()
            finally:
                _thread.pace.count()

        job = asyncio.get_running_loop().run_in_executor(self._threads, run)
        job.add_done_callback(lambda _: self._free_threads.give_back((queue,)))
        # Work that a thread has started continues when its caller is cancelled, and keeps the thread until its end.
        return await asyncio.shield(job)


class _Queue:
    """Passwords that wait for a thread. The addresses take turns to be the next one."""

    def __init__(self) -> None:
        self._next = Turns(1)
        # The waiters, oldest first, with their address → since when (time.monotonic()).
        self._waiting: dict[object, tuple[str, float]] = {}

    def check(self, address: str) -> None:
        since = [at for waiting, at in self._waiting.values() if waiting == address]
        # A full queue still takes the first of an address: its turn comes before the others' next ones.
        if len(self._waiting) >= (_QUEUE_LIMIT if since else 2 * _QUEUE_LIMIT):
            raise DomainError(reasons.ERROR_REASON_OVERLOADED)
        slow = since and time.monotonic() - since[0] > _LONGEST_WAIT
        if slow or len(since) >= _ADDRESS_LIMIT:
            raise limit_reached("passwords_at_once", "address", _RETRY_AFTER)

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Holds the place of the next one. Callers who are cancelled while they wait leave the queue."""
        ticket = object()
        self._waiting[ticket] = (address, time.monotonic())
        try:
            async with self._next.hold((address,)):
                yield
        finally:
            del self._waiting[ticket]


def _canonical(password: str) -> str:
    """The password in NFC: keyboards of different systems produce different normal forms (RFC 8265, OpaqueString)."""
    return nfc(password)


class _Pace:
    """Limits a thread to the share _SHARE of a core. The thread calls `wait` before each job and `count` after it."""

    def __init__(self) -> None:
        # Processor time (seconds) that the thread may still use; negative while it has to pause.
        self._saved = _BURST
        self._used = time.thread_time()
        self._seen = time.monotonic()

    def wait(self) -> None:
        now = time.monotonic()
        self._saved = min(_BURST, self._saved + (now - self._seen) * _SHARE)
        self._seen = now
        if self._saved < 0:
            time.sleep(-self._saved / _SHARE)

    def count(self) -> None:
        used = time.thread_time()
        self._saved -= used - self._used
        self._used = used


def _prepare() -> None:
    """Sets up a new hashing thread. On Linux it also pins the thread to `_CORES` and lowers its priority."""
    _thread.pace = _Pace()
    if sys.platform == "linux":
        os.sched_setaffinity(threading.get_native_id(), _CORES)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 15)
