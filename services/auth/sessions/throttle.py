"""Login throttling: wrong passwords are counted in the database, for all replicas.

They count for the account at the client's address, for the address, and for the account. The first limit is the lowest:
an attacker who reaches it keeps the account's owner out only if both share an address.
"""

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
# The limit of an account for all addresses together is this many times its limit for one address. NIST 800-63B allows
# 100 wrong passwords.
_ADDRESSES = 10


@dataclass(frozen=True)
class Attempt:
    """The keys that a login attempt is counted under: HMACs of the account's e-mail, the client's address, and both."""

    both: bytes
    account: bytes
    address: bytes


class Throttle:
    """Limits wrong passwords per account and per IP address. Its methods run in the caller's transaction."""

    def __init__(self, settings: Settings, seal: Seal) -> None:
        self._seal = seal
        self._per_account = settings.login_attempts_per_account
        self._per_address = settings.attempts_per_address

    def attempt(self, email_key: str, address: str) -> Attempt:
        return Attempt(
            self._seal.derive("login-account-at-address", f"{address} {email_key}".encode()),
            self._seal.derive("login-account", email_key.encode()),
            self._seal.derive("login-address", address.encode()),
        )

    async def check(self, tx: Transaction, attempt: Attempt) -> None:
        """Raises LOGIN_THROTTLED while one of the limits is reached, even for the right password."""
        limits = (
            (attempt.both, self._per_account),
            (attempt.account, _ADDRESSES * self._per_account),
            (attempt.address, self._per_address),
        )
        waits = [
            row.wait.total_seconds()
            for key, limit in limits
            if (row := await tx.one(queries.THROTTLING, key=key, more_than=limit - 1))
        ]
        if waits:
            raise DomainError(reasons.ERROR_REASON_LOGIN_THROTTLED, retry_after=max(waits))

    async def succeeded(self, tx: Transaction, attempt: Attempt) -> None:
        """Clears the account's counts. The address keeps its count: attackers could clear it by a login of theirs.

        Raises LOGIN_THROTTLED when concurrent guesses have reached a limit.
        """
        await self._lock(tx, [attempt.account])
        await self.check(tx, attempt)
        for key in (attempt.both, attempt.account):
            await tx.run(queries.DELETE_ATTEMPTS, key=key)

    async def failed(self, tx: Transaction, attempt: Attempt) -> None:
        """Counts a wrong password. Raises LOGIN_THROTTLED when concurrent guesses have reached a limit.

        Locks serialise concurrent guesses, so that no guess beyond the limit learns whether it was right.
        """
        # The account's lock covers its count at the address as well.
        await self._lock(tx, [attempt.account, attempt.address])
        await self.check(tx, attempt)
        keys = (attempt.both, attempt.account, attempt.address)
        await tx.run_many(queries.ADD_ATTEMPT, [{"key": key} for key in keys])

    async def _lock(self, tx: Transaction, keys: Sequence[bytes]) -> None:
        # Locks the keys in a fixed order, so that transactions don't deadlock.
        for number in sorted(int.from_bytes(key[:8], "big", signed=True) for key in keys):
            await tx.run(queries.LOCK_ATTEMPTS, number=number)


def client_address(
    context: "grpc.aio.ServicerContext[Any, Any]", gateways: Networks, trusted_hops: int
) -> str:
    """The address that a login is counted under. For IPv6 the /64 prefix, which one customer has.

    The gateway appends its peer to x-forwarded-for, and each of the `trusted_hops` proxies before it has appended its
    own. The client wrote what stands before those entries. Peers other than the gateways could write anything there, so
    theirs is ignored.
    """
    peer = _address(unquote(context.peer()).partition(":")[2].rpartition(":")[0])
    if peer is not None and any(peer in network for network in gateways):
        forwarded = [
            entry
            for key, value in context.invocation_metadata() or ()
            if key == "x-forwarded-for" and isinstance(value, str)
            for entry in value.split(",")
        ]
        # With fewer entries the call bypassed the proxies, and the gateway's entry is the client.
        hops = trusted_hops if len(forwarded) > trusted_hops else 0
        if forwarded:
            peer = _address(forwarded[-1 - hops]) or peer
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
