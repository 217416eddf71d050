"""Our SDK client for a seeded person, who has a session but no password."""

import time
from uuid import UUID

from services.auth.sessions.tokens import refresh_token
from services.platform.rpc.seal import Seal
from taskflow_client import TaskFlow
from taskflow_client.session_store import MemorySessions, Session
from tests.faults.harness.scenario import Run
from tests.faults.harness.world import SeededPerson


def logged_in(
    run: Run, person: SeededPerson, address: str = "", *, heartbeat_timeout: float = 45.0
) -> TaskFlow:
    """A client at the gateway, or at the address of a proxy. It renews its tokens itself."""
    settings = run.stack.settings
    sessions = MemorySessions()
    session = Session(
        user_id=person.id,
        email=person.email,
        access_token=person.credentials[0][1].removeprefix("Bearer "),
        # The refresh token for a new session of this person.
        refresh_token=refresh_token(Seal(settings), UUID(person.session_id), 1),
        renew_after=time.time() + settings.access_token_lifetime / 3,
    )
    server = address or run.gateway
    sessions.write(server, session)
    return TaskFlow(server, session_store=sessions, heartbeat_timeout=heartbeat_timeout)
