"""Converts session rows into messages."""

import time

from google.protobuf.timestamp_pb2 import Timestamp

from services.auth.sessions import tokens
from services.auth.sessions.queries import LockedSession, Session
from services.platform.config import Settings
from services.platform.rpc.seal import Seal
from taskflow.auth.v1.auth_service_pb2 import Tokens


def session_tokens(
    settings: Settings, keys: tokens.SigningKeys, seal: Seal, session: Session | LockedSession
) -> Tokens:
    """A new access token, and the refresh token of the session's current generation."""
    now = int(time.time())
    expires = min(now + int(settings.access_token_lifetime), int(session.expires_at.timestamp()))
    message = Tokens(
        access_token=keys.access_token(session.user_id, session.id, now, expires),
        access_expire_time=Timestamp(seconds=expires),
        refresh_token=tokens.refresh_token(seal, session.id, session.generation),
    )
    message.refresh_expire_time.FromDatetime(session.expires_at)
    return message
