"""Who calls: access tokens verified locally, and the secret by which services know each other."""

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from uuid import UUID

import grpc
import structlog
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from services.platform.config import Settings
from services.platform.errors import DomainError
from taskflow.auth.v1 import auth_service_pb2, workspace_pb2
from taskflow.auth.v1.workspace_pb2 import Role
from taskflow.error.v1 import error_reason_pb2 as reasons

log = structlog.get_logger()

ALGORITHM = "ES256"
SERVICE_HEADER = "x-taskflow-service"

# Verified tokens are kept until they expire: checking an ES256 signature costs tens of microseconds.
_CACHED_TOKENS = 20_000
# An unknown key id, or nobody's answer, makes us ask for the keys again, but not more often than this (seconds).
_KEY_REFRESH_INTERVAL = 2.0
# The keys are asked for this often (seconds), so that new ones are known before they sign and retired ones forgotten.
_KEEP_INTERVAL = 30.0
# Clocks of two machines may differ by this much (seconds).
_LEEWAY = 5

KeySource = Callable[[], Awaitable[list[auth_service_pb2.SigningKey]]]


@dataclass(frozen=True, slots=True)
class Caller:
    """The user that a call is made for. `needs` is the least role that the called RPC asks for; `expires` is when the
    access token does, in seconds since the epoch."""

    user_id: UUID
    session_id: UUID
    expires: float
    needs: Role.ValueType = workspace_pb2.ROLE_UNSPECIFIED


class Identity:
    """Verifies access tokens with the auth service's public keys."""

    def __init__(self, settings: Settings, fetch_keys: KeySource) -> None:
        self._settings = settings
        self._fetch_keys = fetch_keys
        self._keys: dict[str, ECKey] = {}
        self._keys_asked = -_KEY_REFRESH_INTERVAL
        self._keys_failed = False
        self._asking = asyncio.Lock()
        self._known = asyncio.Event()
        self._verified: OrderedDict[str, Caller] = OrderedDict()

    async def caller(self, token: str, needs: Role.ValueType) -> Caller:
        """Raises TOKEN_INVALID for whatever isn't a token that the auth service signed for us and that lives."""
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

    def is_service(self, presented: str) -> bool:
        expected = self._settings.service_secret.get_secret_value()
        return hmac.compare_digest(presented.encode(), expected.encode())

    async def _verify(self, token: str) -> Caller:
        settings = self._settings
        try:
            # The key is chosen by kid among ours; whatever else the header says (jku, x5u, jwk) isn't looked at.
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
            async with self._asking:
                recently = time.monotonic() - self._keys_asked < _KEY_REFRESH_INTERVAL
                if kid not in self._keys and recently and self._keys_failed:
                    # Nobody knows whether it's one of ours, and the next one asks.
                    raise DomainError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE)
                if kid not in self._keys and not recently:
                    await self.refresh_keys()
        return self._keys[kid]

    async def keep_keys(self) -> None:
        """Asks for the keys again and again, for ever. While nobody answers, those that are known go on being used."""
        while True:
            try:
                await self.refresh_keys()
            except DomainError:
                await asyncio.sleep(_KEY_REFRESH_INTERVAL)
            else:
                await asyncio.sleep(_KEEP_INTERVAL)

    async def wait_for_keys(self) -> None:
        """Returns once tokens can be verified."""
        await self._known.wait()

    async def refresh_keys(self) -> None:
        """Asks for the current keys; retired ones are forgotten, as the tokens that they signed have expired."""
        try:
            keys = await self._fetch_keys()
        except grpc.aio.AioRpcError as error:
            self._keys_asked, self._keys_failed = time.monotonic(), True
            log.warning("signing keys unavailable", code=error.code().name)
            raise DomainError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE) from None
        self._keys_asked, self._keys_failed = time.monotonic(), False
        self._keys = {
            key.kid: ECKey.import_key(
                {"kty": key.kty, "crv": key.crv, "x": key.x, "y": key.y, "kid": key.kid}
            )
            for key in keys
        }
        self._known.set()
