"""Authentication: access tokens, which each service verifies itself, and the secret that TaskFlow's processes share."""

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from uuid import UUID

import grpc
import structlog
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from services.platform.config import Settings
from services.platform.rpc.errors import DomainError
from services.platform.rpc.grpc_types import Context
from services.platform.rpc.methods import Method
from taskflow.auth.v1 import auth_service_pb2, workspace_pb2
from taskflow.auth.v1.workspace_pb2 import Role
from taskflow.error.v1 import error_reason_pb2 as reasons

log = structlog.get_logger()

ALGORITHM = "ES256"
SERVICE_HEADER = "x-taskflow-service"

# Verified tokens are cached until they expire: checking an ES256 signature takes tens of microseconds.
_CACHED_TOKENS = 20_000
# The least time (seconds) between two fetches of the signing keys, after an unknown key id or a failed fetch.
_KEY_REFRESH_INTERVAL = 2.0
# Time (seconds) between regular fetches of the signing keys. A new key is known before it signs.
_KEY_FETCH_INTERVAL = 30.0
# Allowed difference between the clocks of two machines (seconds).
_LEEWAY = 5

KeySource = Callable[[], Awaitable[list[auth_service_pb2.SigningKey]]]


@dataclass(frozen=True, slots=True)
class Caller:
    """The signed-in user of a call."""

    user_id: UUID
    session_id: UUID
    # When the access token expires, in seconds since the epoch.
    expires: float
    # The least role that the called RPC needs.
    needs: Role.ValueType = workspace_pb2.ROLE_UNSPECIFIED


_caller: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """The signed-in user of the current call. Raises LookupError for open and internal RPCs, which have no user."""
    return _caller.get()


class Identity:
    """Authenticates callers; verifies access tokens with the auth service's public keys."""

    def __init__(self, settings: Settings, fetch_keys: KeySource) -> None:
        self._settings = settings
        self._fetch_keys = fetch_keys
        self._keys: dict[str, ECKey] = {}
        self._keys_fetched = -_KEY_REFRESH_INTERVAL
        self._keys_failed = False
        self._fetching = asyncio.Lock()
        self._known = asyncio.Event()
        self._verified: OrderedDict[str, Caller] = OrderedDict()

    async def authenticate(self, method: Method, context: Context) -> None:
        """Checks the access token and sets `current_caller`; for an internal method checks the shared service secret.

        Raises CREDENTIALS_MISSING and TOKEN_INVALID, or for internal methods NOT_FOR_CALLER.
        """
        header = SERVICE_HEADER if method.internal else "authorization"
        sent = [value for key, value in context.invocation_metadata() or () if key == header]
        if method.internal:
            match sent:
                case [str(secret)] if self._is_service(secret):
                    return
            raise DomainError(reasons.ERROR_REASON_NOT_FOR_CALLER)
        match sent:
            case [str(value)] if value[:7].lower() == "bearer ":
                _caller.set(await self.caller(value[7:].strip(), method.role))
            case _:
                raise DomainError(reasons.ERROR_REASON_CREDENTIALS_MISSING)

    async def caller(self, token: str, needs: Role.ValueType) -> Caller:
        """The user whom a valid access token names; `needs` is the least role that the called RPC needs.

        Raises TOKEN_INVALID unless the auth service signed the token for TaskFlow and it hasn't expired.
        """
        caller = self._verified.get(token)
        if caller is None:
            caller = await self._verify(token)
            self._verified[token] = caller
            if len(self._verified) > _CACHED_TOKENS:
                self._verified.popitem(last=False)
        elif caller.expires <= time.time():
            del self._verified[token]
            raise DomainError(reasons.ERROR_REASON_TOKEN_INVALID, message="the token has expired")
        return replace(caller, needs=needs) if needs else caller

    def _is_service(self, presented: str) -> bool:
        expected = self._settings.service_secret.get_secret_value()
        # Without a secret nobody is a service; an empty one would let everybody in.
        return bool(expected) and hmac.compare_digest(presented.encode(), expected.encode())

    async def _verify(self, token: str) -> Caller:
        settings = self._settings
        try:
            # `kid` selects one of the auth service's keys. Nothing else in the header (jku, x5u, jwk) is used.
            kid = jws.extract_compact(token.encode()).headers()["kid"]
            key = await self._key(kid)
            decoded = jwt.decode(token, key, algorithms=[ALGORITHM])
            claims = decoded.claims
            now = time.time()
            issued, expires = float(claims["iat"]), float(claims["exp"])
            if not (
                claims["iss"] == settings.token_issuer
                and claims["aud"] == settings.token_issuer
                and claims["typ"] == "access"
                and issued <= now + _LEEWAY
                and now < expires <= issued + settings.access_token_lifetime + _LEEWAY
            ):
                raise ValueError
            return Caller(UUID(claims["sub"]), UUID(claims["sid"]), expires)
        except (JoseError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise DomainError(reasons.ERROR_REASON_TOKEN_INVALID) from None

    async def _key(self, kid: str) -> ECKey:
        if kid not in self._keys:
            async with self._fetching:
                recently = time.monotonic() - self._keys_fetched < _KEY_REFRESH_INTERVAL
                if kid not in self._keys and recently and self._keys_failed:
                    # The last fetch failed, so a new key may be unknown. A call after the interval fetches again.
                    raise DomainError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE)
                if kid not in self._keys and not recently:
                    await self.refresh_keys()
        return self._keys[kid]

    async def keep_keys(self) -> None:
        """Fetches the signing keys regularly, for ever. While the auth service is away, known keys stay in use."""
        while True:
            try:
                await self.refresh_keys()
            except DomainError:
                await asyncio.sleep(_KEY_REFRESH_INTERVAL)
            else:
                await asyncio.sleep(_KEY_FETCH_INTERVAL)

    async def wait_for_keys(self) -> None:
        """Returns once this process has the public signing keys, and so can verify tokens."""
        await self._known.wait()

    async def refresh_keys(self) -> None:
        """Fetches the auth service's current signing keys, which replace the known ones.

        Tokens of the keys that it no longer publishes have expired. Raises DEPENDENCY_UNAVAILABLE.
        """
        try:
            keys = await self._fetch_keys()
        except grpc.aio.AioRpcError as error:
            self._keys_fetched, self._keys_failed = time.monotonic(), True
            log.warning("signing keys unavailable", code=error.code().name)
            raise DomainError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE) from None
        self._keys_fetched, self._keys_failed = time.monotonic(), False
        self._keys = {
            key.kid: ECKey.import_key(
                {"kty": key.kty, "crv": key.crv, "x": key.x, "y": key.y, "kid": key.kid}
            )
            for key in keys
        }
        self._known.set()
