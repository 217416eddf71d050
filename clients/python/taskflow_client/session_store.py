"""Stores for the tokens of a session: in memory, or in a file that several processes share."""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import platformdirs

from taskflow.auth.v1 import auth_service_pb2
from taskflow_client.errors import Unavailable

# The client renews an access token this many seconds before it expires, or after half its lifetime if that is later.
_RENEW_AHEAD = 30.0
# Seconds to wait for another process that holds the file lock; longer than RENEWAL_LIMIT in token_renewal.py.
_LOCK_PATIENCE = 15.0


@dataclass(frozen=True)
class Session:
    """The tokens of a session. `renew_after` is a Unix time of this machine's clock."""

    user_id: str
    email: str
    access_token: str
    refresh_token: str
    renew_after: float


def session_of(user_id: str, email: str, tokens: auth_service_pb2.Tokens) -> Session:
    """Returns the session for tokens that the server has just sent."""
    now = time.time()
    lifetime = tokens.access_expire_time.ToMicroseconds() / 1e6 - now
    # If a new token seems to be expired, this machine's clock is wrong: renew only when the server
    # rejects the token.
    renew_after = (
        now + max(lifetime - _RENEW_AHEAD, lifetime / 2) if lifetime > 0 else sys.float_info.max
    )
    return Session(user_id, email, tokens.access_token, tokens.refresh_token, renew_after)


class MemorySessions:
    """Keeps sessions in memory, until the process ends."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._lock = asyncio.Lock()

    def read(self, server: str) -> Session | None:
        return self._sessions.get(server)

    def write(self, server: str, session: Session | None) -> None:
        if session is None:
            self._sessions.pop(server, None)
        else:
            self._sessions[server] = session

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        async with self._lock:
            yield


def config_dir() -> Path:
    """Returns the folder of the session file: TASKFLOW_CONFIG_DIR, or the platform's default."""
    return Path(
        os.environ.get("TASKFLOW_CONFIG_DIR")
        or platformdirs.user_config_dir("taskflow", appauthor=False)
    )


class FileSessions:
    """Keeps sessions in a JSON file that only its owner can read, one session per server.

    Processes may share the file. Change it only within `locked()`: a refresh token works once, so a
    process must read it, use it, and write the new one before another process reads the file.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or config_dir() / "sessions.json"

    def read(self, server: str) -> Session | None:
        try:
            return Session(**self._load()[server])
        except (KeyError, TypeError):
            return None

    def write(self, server: str, session: Session | None) -> None:
        sessions = self._load()
        sessions.pop(server, None)
        if session is not None:
            sessions[server] = asdict(session)
        write_private(self.path, json.dumps(sessions, indent=2))

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Locks out other processes. Raises Unavailable when one holds the lock for 15 seconds."""
        make_private_dir(self.path.parent)
        descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            until = time.monotonic() + _LOCK_PATIENCE
            while not _try_lock(descriptor):
                if time.monotonic() > until:
                    message = f"another process keeps {self.path} locked"
                    raise Unavailable("", grpc.StatusCode.UNAVAILABLE, message)
                await asyncio.sleep(0.05)
            yield
        finally:
            os.close(descriptor)  # also releases the lock

    def _load(self) -> dict[str, Any]:
        try:
            sessions = json.loads(self.path.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}  # a damaged file counts as empty; the next login writes a new one
        return sessions if isinstance(sessions, dict) else {}


def make_private_dir(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def write_private(path: Path, text: str) -> None:
    """Replaces a file atomically with a file of mode 0600: readers see either the old file or the new file."""
    make_private_dir(path.parent)
    descriptor, temporary = tempfile.mkstemp(
        prefix=path.name, dir=path.parent
    )  # made with mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
