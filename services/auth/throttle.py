"""Guessed passwords are counted per account and per address, in the database, for all processes together."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import unquote

import grpc
from sqlalchemy import (
    BigInteger,
    Integer,
    Interval,
    LargeBinary,
    bindparam,
    delete,
    func,
    insert,
    literal,
    select,
)

from services.auth.models import login_attempts as attempts
from services.platform.config import Settings
from services.platform.db import Statement, Transaction
from services.platform.errors import DomainError
from services.platform.seal import Seal
from taskflow.error.v1 import error_reason_pb2 as reasons

WINDOW = timedelta(minutes=15)

_window = literal(WINDOW, Interval)
# The attempt that has to leave the window before another one is allowed, and how long that takes.
_LIMITING = Statement(
    select((attempts.c.attempted_at + _window - func.now()).label("wait"))
    .where(
        attempts.c.key == bindparam("key", type_=LargeBinary),
        attempts.c.attempted_at > func.now() - _window,
    )
    .order_by(attempts.c.attempted_at.desc())
    .offset(bindparam("more_than", type_=Integer))
    .limit(1)
)
_LOCK = Statement(select(func.pg_advisory_xact_lock(bindparam("number", type_=BigInteger))))
_COUNT = Statement(insert(attempts), ["key"])
_FORGIVE = Statement(delete(attempts).where(attempts.c.key == bindparam("key", type_=LargeBinary)))


@dataclass(frozen=True)
class Origin:
    """Where a login comes from and goes to, as it's counted: HMACs."""

    account: bytes
    address: bytes


class Throttle:
    """The limits; its methods take part in the caller's transaction."""

    def __init__(self, settings: Settings, seal: Seal) -> None:
        self._seal = seal
        self._per_account = settings.login_attempts_per_account
        self._per_address = settings.login_attempts_per_address

    def origin(self, email_key: str, address: str) -> Origin:
        return Origin(
            self._seal.derive("login-account", email_key.encode()),
            self._seal.derive("login-address", address.encode()),
        )

    async def check(self, tx: Transaction, origin: Origin) -> None:
        """Raises LOGIN_THROTTLED while there were too many wrong passwords, whatever comes now."""
        waits = [
            row.wait.total_seconds()
            for key, limit in (
                (origin.account, self._per_account),
                (origin.address, self._per_address),
            )
            if (row := await tx.one(_LIMITING, key=key, more_than=limit - 1))
        ]
        if waits:
            raise DomainError(reasons.ERROR_REASON_LOGIN_THROTTLED, retry_after=max(waits))

    async def right(self, tx: Transaction, origin: Origin) -> None:
        """Clears the account's count. Raises LOGIN_THROTTLED when guesses made meanwhile have reached the limit."""
        await self._lock(tx, [origin.account])
        await self.check(tx, origin)
        await tx.run(_FORGIVE, key=origin.account)

    async def wrong(self, tx: Transaction, origin: Origin) -> None:
        """Counts a wrong password. Raises LOGIN_THROTTLED when guesses made meanwhile have reached the limit.

        The locks make simultaneous guesses count one after the other, so that none is answered beyond the limit.
        """
        await self._lock(tx, [origin.account, origin.address])
        await self.check(tx, origin)
        await tx.run_many(_COUNT, [{"key": origin.account}, {"key": origin.address}])

    async def _lock(self, tx: Transaction, keys: Sequence[bytes]) -> None:
        # In one order everywhere.
        for number in sorted(int.from_bytes(key[:8], "big", signed=True) for key in keys):
            await tx.one(_LOCK, number=number)


def client_address(context: "grpc.aio.ServicerContext[Any, Any]") -> str:
    """The address that a call is counted under; of IPv6 the /64 that one customer has.

    Behind the gateway it's the last hop of x-forwarded-for, the only one that the gateway wrote itself. A peer on the
    open internet isn't the gateway, and isn't believed.
    """
    peer = _address(unquote(context.peer()).partition(":")[2].rpartition(":")[0])
    if peer is not None and not peer.is_global:
        for key, value in reversed(tuple(context.invocation_metadata() or ())):
            if key == "x-forwarded-for" and isinstance(value, str):
                peer = _address(value.rpartition(",")[2]) or peer
                break
    if isinstance(peer, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(peer), 64), strict=False))
    return str(peer)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.strip().strip("[]"))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address
