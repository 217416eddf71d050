"""Notifications are mailed by a server that is slow and refuses, while users leave, return, and switch mail off and on.

This scenario replaces the stack's mail catcher by a server of its own.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from google.protobuf.field_mask_pb2 import FieldMask

from taskflow.auth.v1.user_pb2 import User
from taskflow.auth.v1.user_service_pb2 import GetCurrentUserRequest, UpdateCurrentUserRequest
from taskflow.auth.v1.workspace_pb2 import ROLE_MEMBER
from taskflow.auth.v1.workspace_service_pb2 import AddMemberRequest, RemoveMemberRequest
from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest
from tests.fakes.mail_receiver import MailReceiver, mail_receiver
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import SeededPerson, World, a_world

PROMISE = "Mail is neither doubled nor forgotten"
LIMIT_SECONDS = {"short": 150.0, "long": 900.0}

# Assignments at once for one user.
_STORM: Final = (150, 501)
# Seconds that the server takes to deliver. The long one is more than a client waits that ignores RFC 5321.
_SLOW: Final = (2.0, 40.0)
# Seconds before each answer to MAIL and RCPT.
_TARPIT: Final = (0.3, 5.0)
# Mails that the server refuses for now.
_BUSY: Final = (3, 8)
# Clients hide what follows after 102 KB.
_LARGEST: Final = 100_000
# Seconds for everything to be mailed or skipped, plus the server's own times.
_PATIENCE: Final = 60.0
# Tasks are created this many at a time.
_AT_ONCE: Final = 25
_COUNT: Final = re.compile(r"(\d+) notifications: ")


class Fate(NamedTuple):
    """What became of a notification: its mail, the mail's state, and why it wasn't sent."""

    user_id: str
    title: str
    batch: str
    state: str
    error: str


@dataclass(frozen=True)
class Crowd:
    """The people of the scenario, by what happens to them."""

    world: World
    stormed: SeededPerson
    refused: SeededPerson
    switching: SeededPerson
    returning: SeededPerson
    ordinary: list[SeededPerson]

    async def assign(self, person: SeededPerson, title: str, count: int = 1) -> None:
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def create() -> None:
            async with at_once:
                await self.world.stubs.tasks.CreateTask(
                    CreateTaskRequest(
                        project_id=self.world.project,
                        task=Task(title=title, assignee_id=person.id),
                    ),
                    metadata=self.world.workspace.owner.credentials,
                )

        await asyncio.gather(*(create() for _ in range(count)))

    async def switch_mail(self, person: SeededPerson, on: bool) -> None:
        await self.world.stubs.users.UpdateCurrentUser(
            UpdateCurrentUserRequest(
                user=User(email_notifications=on),
                update_mask=FieldMask(paths=["email_notifications"]),
            ),
            metadata=person.credentials,
        )

    async def notified(self, person: SeededPerson, count: int) -> None:
        """Wait until the person has this many notifications."""
        async with asyncio.timeout(_PATIENCE):
            while await self._count(person) < count:
                await asyncio.sleep(0.1)

    async def _count(self, person: SeededPerson) -> int:
        statement = "SELECT count(*) FROM notification.notifications WHERE user_id = %(id)s"
        return int((await self.world.fetch(statement, {"id": person.id}))[0][0])


async def run(run: Run, tally: Tally) -> None:
    storm = run.choose(*_STORM)
    async with a_world(run, people=9) as world, _mail_server(run) as mails:
        mails.slow = run.choose(*_SLOW)
        mails.tarpit = run.choose(*_TARPIT)
        mails.data_replies = ["451 not now"] * run.choose(*_BUSY)
        _, stormed, refused, switching, returning, *ordinary = world.people
        mails.refused[refused.email] = "550 5.1.1 no such user"
        crowd = Crowd(world, stormed, refused, switching, returning, ordinary)
        await asyncio.gather(
            crowd.assign(stormed, "Storm", storm),
            *(crowd.assign(person, "Ordinary") for person in ordinary),
            crowd.assign(refused, "First"),
            _switch(crowd),
            _leave_and_return(crowd),
        )
        tally.operations = storm + len(ordinary)
        tally.faults = 4 + run.choose(*_BUSY)
        begun = time.monotonic()
        patience = _PATIENCE + 4 * (mails.slow + mails.tarpit)
        await _settled(crowd, patience)
        await crowd.assign(refused, "Second", 3)
        await crowd.notified(refused, 4)
        fates = await _settled(crowd, patience)
        tally.recovered_after(time.monotonic() - begun)
        _check(tally, mails, crowd, fates, storm)
        user = await world.stubs.users.GetCurrentUser(
            GetCurrentUserRequest(), metadata=refused.credentials
        )
        tally.expect(user.user.HasField("email_bounce_time"), "no user sees the refused address")


async def _switch(crowd: Crowd) -> None:
    person = crowd.switching
    await crowd.switch_mail(person, False)
    await crowd.assign(person, "Before", 30)
    await crowd.notified(person, 30)
    await crowd.switch_mail(person, True)
    await crowd.assign(person, "After")


async def _leave_and_return(crowd: Crowd) -> None:
    """Within the batching window, so that the mail of the first notification wasn't sent."""
    person, world = crowd.returning, crowd.world
    by_owner: dict[str, Any] = {"metadata": world.workspace.owner.credentials}
    await crowd.assign(person, "Before")
    await crowd.notified(person, 1)
    workspace = world.workspace.id
    await world.stubs.workspaces.RemoveMember(
        RemoveMemberRequest(workspace_id=workspace, user_id=person.id), **by_owner
    )
    await world.stubs.workspaces.AddMember(
        AddMemberRequest(workspace_id=workspace, email=person.email, role=ROLE_MEMBER), **by_owner
    )
    await crowd.assign(person, "After")


@asynccontextmanager
async def _mail_server(run: Run) -> AsyncIterator[MailReceiver]:
    await run.stack.hold("mail")
    try:
        async with mail_receiver(run.stack.settings.mail_port) as mails:
            yield mails
    finally:
        run.stack.release("mail")
        await run.stack.wait_ready("mail")


_FATES: Final = """
SELECT notifications.user_id::text, task_title, coalesce(batches.id::text, ''),
  CASE WHEN read_at IS NOT NULL THEN 'READ' ELSE coalesce(state, '') END, coalesce(error, '')
FROM notification.notifications
LEFT JOIN notification.email_batches AS batches ON batches.id = email_batch_id
WHERE notifications.user_id = ANY(%(ids)s::uuid[])
"""


async def _settled(crowd: Crowd, patience: float) -> list[Fate]:
    """The notifications, as soon as each is mailed or never will be; as they are when the time is over."""
    ids = [person.id for person in crowd.world.people]
    end = time.monotonic() + patience
    while True:
        fates = [Fate(*row) for row in await crowd.world.fetch(_FATES, {"ids": ids})]
        waiting = sum(fate.state in ("", "PREPARED") for fate in fates)
        if not waiting or time.monotonic() > end:
            return fates
        await asyncio.sleep(0.2)


def _check(tally: Tally, mails: MailReceiver, crowd: Crowd, fates: list[Fate], storm: int) -> None:
    accepted = Counter(
        str(mail["Message-ID"]).strip("<>").partition("@")[0] for mail in mails.messages
    )
    for fate in fates:
        if fate.state == "SENT":
            tally.lost += accepted[fate.batch] == 0
            tally.doubled += accepted[fate.batch] > 1
        elif fate.state in ("FAILED", "SKIPPED"):
            tally.doubled += accepted[fate.batch]
            tally.expect(bool(fate.error), "a notification isn't mailed, and nothing says why")
        else:
            tally.lost += fate.state != "READ"

    def mailed(person: SeededPerson, title: str) -> int:
        wanted = (person.id, title, "SENT")
        return sum((fate.user_id, fate.title, fate.state) == wanted for fate in fates)

    tally.lost += storm - mailed(crowd.stormed, "Storm")
    for person in crowd.ordinary:
        tally.lost += 1 - mailed(person, "Ordinary")
    for person in (crowd.switching, crowd.returning):
        tally.lost += 1 - mailed(person, "After")
        tally.leaked += mailed(person, "Before")
    counted = Counter({recipient: 0 for (recipient,) in mails.recipients})
    for mail, (recipient,) in zip(mails.messages, mails.recipients, strict=True):
        stated = _COUNT.match(mail["Subject"])
        counted[recipient] += int(stated[1]) if stated else 1
        size = len(mail.as_bytes())
        tally.expect(size < _LARGEST, f"a mail has {size:,} bytes")
    tally.expect(
        counted[crowd.stormed.email] == storm,
        f"the mails of a storm count {counted[crowd.stormed.email]} notifications, not {storm}",
    )
    tries = mails.tries[crowd.refused.email]
    tally.expect(tries == 1, f"a refused address was tried {tries} times")
    tally.figures["mails"] = (
        f"{len(mails.messages)} for {len(fates)} notifications, "
        f"{sum(fate.state == 'SKIPPED' for fate in fates)} skipped with their reason"
    )
