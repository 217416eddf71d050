"""Login throttling: wrong passwords are counted per account and per address, in the database, for all replicas."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import grpc

from services.auth.sessions import queries
from services.platform.config import Settings
from services.platform.data.db import Transaction
from services.platform.rpc.errors import DomainError
from services.platform.rpc.seal import Seal
from taskflow.error.v1 import error_reason_pb2 as reasons

# The networks of the gateways.
Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]


@dataclass(frozen=True)
class Attempt:
    """The two keys under which a login attempt counts: HMACs of the e-mail address and of the client's IP address."""

    account: bytes
    address: bytes


class Throttle:
    """Limits wrong passwords per account and per IP address. Its methods run in the caller's transaction."""

    def __init__(self, settings: Settings, seal: Seal) -> None:
        self._seal = seal
        self._per_account = settings.login_attempts_per_account
        self._per_address = settings.login_attempts_per_address

    def attempt(self, email_key: str, address: str) -> Attempt:
        return Attempt(
            self._seal.derive("login-account", email_key.encode()),
            self._seal.derive("login-address", address.encode()),
        )

    async def check(self, tx: Transaction, attempt: Attempt) -> None:
        """Raises LOGIN_THROTTLED while the account or the address is at its limit, even for the right password."""
        limits = ((attempt.account, self._per_account), (attempt.address, self._per_address))
        waits = [
            row.wait.total_seconds()
            for key, limit in limits
            if (row := await tx.one(queries.THROTTLING, key=key, more_than=limit - 1))
        ]
        if waits:
            raise DomainError(reasons.ERROR_REASON_LOGIN_THROTTLED, retry_after=max(waits))

    async def succeeded(self, tx: Transaction, attempt: Attempt) -> None:
        """Clears the account's count. Raises LOGIN_THROTTLED when concurrent guesses have reached the limit."""
        await self._lock(tx, [attempt.account])
        await self.check(tx, attempt)
        await tx.run(queries.DELETE_ATTEMPTS, key=attempt.account)

    async def failed(self, tx: Transaction, attempt: Attempt) -> None:
        """Counts a wrong password. Raises LOGIN_THROTTLED when concurrent guesses have reached the limit.

        Locks serialise concurrent guesses, so that no guess beyond the limit learns whether it was right.
        """
        await self._lock(tx, [attempt.account, attempt.address])
        await self.check(tx, attempt)
        await tx.run_many(queries.ADD_ATTEMPT, [{"key": attempt.account}, {"key": attempt.address}])

    async def _lock(self, tx: Transaction, keys: Sequence[bytes]) -> None:
        # Locks the keys in a fixed order, so that transactions don't deadlock.
        for number in sorted(int.from_bytes(key[:8], "big", signed=True) for key in keys):
            await tx.run(queries.LOCK_ATTEMPTS, number=number)


def client_address(context: "grpc.aio.ServicerContext[Any, Any]", gateways: Networks) -> str:
    """The address that a login is counted under. For IPv6 the /64 prefix, which one customer has.

    Behind the gateway it is the last entry of x-forwarded-for, the only one that the gateway itself wrote. Other peers
    could write anything there, so theirs is ignored.
    """
    peer = _address(unquote(context.peer()).partition(":")[2].rpartition(":")[0])
    if peer is not None and any(peer in network for network in gateways):
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
