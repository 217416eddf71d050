"""Our own client as people use it, for somebody who has a session but no password."""

import time
from uuid import UUID

from services.auth.tokens import refresh_token
from services.platform.seal import Seal
from taskflow_client import TaskFlow
from taskflow_client.session import MemorySessions, Session
from tests.faults.harness.scenario import Run
from tests.faults.harness.world import Person


def logged_in(run: Run, person: Person) -> TaskFlow:
    """A client at the gateway. It renews its tokens by itself; the person's other clients aren't affected."""
    settings = run.stack.settings
    sessions = MemorySessions()
    client = TaskFlow(run.gateway, session_store=sessions)
    session = Session(
        user_id=person.id,
        email=person.email,
        access_token=person.credentials[0][1].removeprefix("Bearer "),
        # A new session's.
        refresh_token=refresh_token(Seal(settings), UUID(person.session_id), 1),
        renew_after=time.time() + settings.access_token_lifetime / 3,
    )
    sessions.write(client.server, session)
    return TaskFlow(run.gateway, session_store=sessions)
