"""The servicer of AuthService."""

import grpc

from services.auth.accounts import emails
from services.auth.accounts import logic as accounts
from services.auth.accounts import messages as account_messages
from services.auth.sessions import logic, retention, tokens
from services.auth.sessions.messages import session_tokens
from services.auth.sessions.passwords import Passwords, check_length
from services.auth.sessions.registrations import Registrations
from services.auth.sessions.throttle import Throttle, client_address
from services.platform.rpc import idempotency
from services.platform.rpc.errors import DomainError
from services.platform.rpc.grpc_types import Context
from services.platform.rpc.identity import current_caller
from services.platform.runtime import Loop, Platform
from taskflow.auth.v1 import auth_service_pb2, auth_service_pb2_grpc
from taskflow.error.v1 import error_reason_pb2 as reasons


def register(server: grpc.aio.Server, platform: Platform) -> list[Loop]:
    auth_service_pb2_grpc.add_AuthServiceServicer_to_server(AuthServicer(platform), server)
    return [retention.loop(platform)]


class AuthServicer(auth_service_pb2_grpc.AuthServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._settings = platform.settings
        self._db = platform.db
        self._seal = platform.seal
        self._keys = tokens.SigningKeys(platform.settings)
        self._passwords = Passwords()
        self._throttle = Throttle(platform.settings, platform.seal)
        self._registrations = Registrations(platform.settings.registrations)

    async def Register(
        self, request: auth_service_pb2.RegisterRequest, context: Context
    ) -> auth_service_pb2.RegisterResponse:
        account = accounts.new_account(request)
        check_length("password", request.password)
        address = self._address(context)
        self._passwords.check_queue(address, new=True)
        self._registrations.count(address)
        password_hash = await self._passwords.hash(request.password, address)
        # No user is signed in yet: repeats are recognised by the e-mail.
        caller = f"register:{account['email_key']}"
        async with self._db.transaction() as tx:

            async def create() -> auth_service_pb2.RegisterResponse:
                row = await accounts.create(tx, account, password_hash)
                return auth_service_pb2.RegisterResponse(user=account_messages.user(row))

            return await idempotency.once(
                tx, self._seal, caller, request, auth_service_pb2.RegisterResponse, create
            )

    def _address(self, context: Context) -> str:
        settings = self._settings
        return client_address(context, settings.gateway_networks, settings.trusted_hops)

    async def Login(
        self, request: auth_service_pb2.LoginRequest, context: Context
    ) -> auth_service_pb2.LoginResponse:
        address = self._address(context)
        self._passwords.check_queue(address)
        email_key = emails.lookup_key(request.email)
        attempt = self._throttle.attempt(email_key, address)
        async with self._db.read() as tx:
            await self._throttle.check(tx, attempt)
            account = await accounts.find_by_email(tx, email_key)
        # Hashing holds no database connection: more users may log in at once than the pool has connections.
        right = await self._passwords.verify(
            request.password, account.password_hash if account else None, address
        )
        if account is None or not right:
            async with self._db.transaction() as tx:
                await self._throttle.failed(tx, attempt)
            raise DomainError(reasons.ERROR_REASON_CREDENTIALS_WRONG)
        new_hash = None
        if self._passwords.outdated(account.password_hash):
            new_hash = await self._passwords.hash(request.password, address, login=True)
        async with self._db.transaction() as tx:
            await self._throttle.succeeded(tx, attempt)
            if new_hash is not None:
                await accounts.replace_password_hash(tx, account, new_hash)
            session = await logic.start(tx, self._settings, account.id, request.device)
        return auth_service_pb2.LoginResponse(
            user=account_messages.own_user(account),
            tokens=session_tokens(self._settings, self._keys, self._seal, session),
        )

    async def RefreshToken(
        self, request: auth_service_pb2.RefreshTokenRequest, context: Context
    ) -> auth_service_pb2.RefreshTokenResponse:
        session_id, generation = tokens.read_refresh_token(self._seal, request.refresh_token)
        async with self._db.transaction() as tx:
            session = await logic.refresh(tx, self._settings, session_id, generation)
        if session is None:
            raise DomainError(reasons.ERROR_REASON_REFRESH_TOKEN_REUSED)
        return auth_service_pb2.RefreshTokenResponse(
            tokens=session_tokens(self._settings, self._keys, self._seal, session)
        )

    async def Logout(
        self, request: auth_service_pb2.LogoutRequest, context: Context
    ) -> auth_service_pb2.LogoutResponse:
        caller = current_caller()
        async with self._db.transaction() as tx:
            await logic.revoke(tx, caller.session_id, caller.user_id)
        return auth_service_pb2.LogoutResponse()

    async def GetSigningKeys(
        self, request: auth_service_pb2.GetSigningKeysRequest, context: Context
    ) -> auth_service_pb2.GetSigningKeysResponse:
        return auth_service_pb2.GetSigningKeysResponse(keys=await self._keys.public_keys())
