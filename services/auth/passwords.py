"""Passwords: Argon2id, in few threads and with a short queue, so that logins can't take the machine over."""

import asyncio
import os
import sys
import threading
import time
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from services.platform.errors import DomainError
from taskflow.error.v1 import error_reason_pb2 as reasons

# The first choice of the OWASP cheat sheet for password storage: 19 MiB, 2 passes. About 20 ms.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
# Half of the processors hash, the same ones in all processes of a machine; the other half never has to do with it.
_PROCESSORS = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]
_HALF = _PROCESSORS[-max(1, len(_PROCESSORS) // 2) :]
# Who comes while somebody has been waiting for this long (seconds) is told to try again instead of waiting, too: the
# threads are slower when others need the processors.
_LONGEST_WAIT = 1.0
# About a second of work for one thread.
_WAITING = 12
# Part of its time that a thread may hash: some 10 passwords a second. What hashes takes caches and memory from
# everything else on the machine, whatever its priority.
_SHARE = 0.2
# What a thread that has rested may hash before it has to pause (seconds of processor time).
_SAVED = 0.04

_T = TypeVar("_T")

_thread = threading.local()


class Passwords:
    """Hashes and verifies. All methods raise OVERLOADED when too many wait already."""

    def __init__(self, hasher: PasswordHasher = _HASHER) -> None:
        self._hasher = hasher
        self._threads = ThreadPoolExecutor(
            len(_HALF), thread_name_prefix="argon2", initializer=_prepare
        )
        self._counting = threading.Lock()
        # Who waits, the first one first, since when (time.monotonic()).
        self._waiting: dict[object, float] = {}
        # Verified for those who don't exist, so that they take as long.
        self._nobody = hasher.hash(os.urandom(16))

    def expect_room(self) -> None:
        """For the beginning of a call that is going to hash: one that would be refused then needn't cost anything."""
        with self._counting:
            first = next(iter(self._waiting.values()), None)
            full = len(self._waiting) >= _WAITING
        if full or (first is not None and time.monotonic() - first > _LONGEST_WAIT):
            raise DomainError(reasons.ERROR_REASON_OVERLOADED)

    async def hash(self, password: str) -> str:
        return await self._run(lambda: self._hasher.hash(_canonical(password)))

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether the password is the one that was hashed; False, and not sooner, when there is no hash."""
        right = await self._run(lambda: self._matches(password, stored or self._nobody))
        return right and stored is not None

    def outdated(self, stored: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    def _matches(self, password: str, stored: str) -> bool:
        try:
            return self._hasher.verify(stored, _canonical(password))
        except VerificationError:
            return False

    async def _run(self, work: Callable[[], _T]) -> _T:
        self.expect_room()
        place = object()
        with self._counting:
            self._waiting[place] = time.monotonic()

        def leave(_: object = None) -> None:
            with self._counting:
                self._waiting.pop(place, None)

        def begin() -> _T:
            _thread.pace.wait()
            leave()
            try:
                return work()
            finally:
                _thread.pace.count()

        job = self._threads.submit(begin)
        # Also of who went away before it was their turn. What a thread has begun goes on.
        job.add_done_callback(leave)
        return await asyncio.wrap_future(job)


def _canonical(password: str) -> str:
    """The same keys pressed on another system can give another normal form (RFC 8265, OpaqueString)."""
    return unicodedata.normalize("NFC", password)


class _Pace:
    """Keeps the thread that it's made in to its share: `wait` before some work, `count` after it."""

    def __init__(self) -> None:
        # Seconds of processor time: what the thread may still use, negative while it has to pause.
        self._saved = _SAVED
        self._used = time.thread_time()
        self._seen = time.monotonic()

    def wait(self) -> None:
        now = time.monotonic()
        self._saved = min(_SAVED, self._saved + (now - self._seen) * _SHARE)
        self._seen = now
        if self._saved < 0:
            time.sleep(-self._saved / _SHARE)

    def count(self) -> None:
        used = time.thread_time()
        self._saved -= used - self._used
        self._used = used


def _prepare() -> None:
    """Lets other work on this machine go first. On Linux both are per thread; elsewhere per process."""
    _thread.pace = _Pace()
    if sys.platform == "linux":
        os.sched_setaffinity(threading.get_native_id(), _HALF)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 15)
