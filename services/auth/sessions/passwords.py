"""Hashes passwords with Argon2id, in few threads and with a short queue, so that logins can't take over the machine."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from services.platform.rpc.errors import DomainError, invalid
from services.platform.rpc.nfc import nfc
from taskflow.error.v1 import error_reason_pb2 as reasons

# Argon2id parameters: the first choice of the OWASP cheat sheet for password storage (19 MiB, 2 passes); about 20 ms.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
# Cores that may hash passwords: half of them, the same half in all processes of a machine.
_ALL_CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]
_CORES = _ALL_CORES[-max(1, len(_ALL_CORES) // 2) :]
# Reject calls with a password once the oldest job in the queue has waited this long (seconds).
_LONGEST_WAIT = 1.0
# Reject calls with a password once this many jobs are in the queue: about a second of work for one thread.
_QUEUE_LIMIT = 12
# Share of its time that a thread may spend on hashing: some 10 passwords a second for each thread. Even at low
# priority, hashing takes caches and memory bandwidth from everything else on the machine.
_SHARE = 0.2
# Most processor time (seconds) that an idle thread saves up, and can then use for hashing without a pause.
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
    """Hashes and verifies passwords. Both raise OVERLOADED when the queue is full or too slow."""

    def __init__(self, hasher: PasswordHasher = _HASHER) -> None:
        self._hasher = hasher
        self._threads = ThreadPoolExecutor(
            len(_CORES), thread_name_prefix="argon2", initializer=_prepare
        )
        self._lock = threading.Lock()
        # Waiting jobs, oldest first → when each joined the queue (time.monotonic()).
        self._waiting: dict[object, float] = {}
        # Verified for accounts that don't exist, so that their logins take as long as those of existing accounts.
        self._dummy_hash = hasher.hash(os.urandom(16))

    def check_queue(self) -> None:
        """Raises OVERLOADED if the queue would reject a password now. A call can thus fail before it does any work."""
        with self._lock:
            oldest = next(iter(self._waiting.values()), None)
            full = len(self._waiting) >= _QUEUE_LIMIT
        if full or (oldest is not None and time.monotonic() - oldest > _LONGEST_WAIT):
            raise DomainError(reasons.ERROR_REASON_OVERLOADED)

    async def hash(self, password: str) -> str:
        return await self._run(lambda: self._hasher.hash(_canonical(password)))

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether the password matches the hash `stored`. Without a hash: False, after the same time."""
        right = await self._run(lambda: self._matches(password, stored or self._dummy_hash))
        return right and stored is not None

    def outdated(self, stored: str) -> bool:
        """Whether the hash was made with parameters other than the current ones."""
        return self._hasher.check_needs_rehash(stored)

    def _matches(self, password: str, stored: str) -> bool:
        try:
            return self._hasher.verify(stored, _canonical(password))
        except VerificationError:
            return False

    async def _run(self, work: Callable[[], _T]) -> _T:
        self.check_queue()
        ticket = object()
        with self._lock:
            self._waiting[ticket] = time.monotonic()

        def leave_queue(_: object = None) -> None:
            with self._lock:
                self._waiting.pop(ticket, None)

        def run() -> _T:
            _thread.pace.wait()
            leave_queue()
            try:
                return work()
            finally:
                _thread.pace.count()

        job = self._threads.submit(run)
        # The job of a cancelled caller leaves the queue too. A job that a thread has started runs to its end.
        job.add_done_callback(leave_queue)
        return await asyncio.wrap_future(job)


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
