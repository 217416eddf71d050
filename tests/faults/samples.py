"""One object of each kind in one workspace, so that a test can build requests that are almost valid."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import grpc.aio
from sqlalchemy import text

from services.auth.accounts.logic import grant_operator
from services.platform.config import Settings
from services.platform.data.db import Database, Statement
from services.platform.rpc.identity import SERVICE_HEADER
from taskflow.auth.v1.workspace_pb2 import ROLE_MEMBER
from taskflow.event.v1.dead_letter_service_pb2 import ListDeadLettersRequest, ParkEventRequest
from taskflow.event.v1.dead_letter_service_pb2_grpc import (
    DeadLetterInternalServiceStub,
    DeadLetterServiceStub,
)
from taskflow.notification.v1.notification_service_pb2 import (
    ListNotificationsRequest,
    WatchNotificationsRequest,
)
from taskflow.notification.v1.notification_service_pb2_grpc import NotificationServiceStub
from taskflow.options.v1 import options_pb2
from taskflow.task.v1.internal_service_pb2 import StoreSuggestionsRequest, SuggestionDraft
from taskflow.task.v1.internal_service_pb2_grpc import SuggestionInternalServiceStub
from taskflow.task.v1.job_service_pb2 import ListJobsRequest
from taskflow.task.v1.job_service_pb2_grpc import JobServiceStub
from taskflow.task.v1.project_pb2 import Project
from taskflow.task.v1.project_service_pb2 import CreateProjectRequest
from taskflow.task.v1.project_service_pb2_grpc import ProjectServiceStub
from taskflow.task.v1.suggestion_pb2 import SUGGESTION_KIND_DESCRIPTION, SUGGESTION_KIND_PRIORITY
from taskflow.task.v1.suggestion_service_pb2 import ListSuggestionsRequest
from taskflow.task.v1.suggestion_service_pb2_grpc import SuggestionServiceStub
from taskflow.task.v1.task_pb2 import TASK_PRIORITY_HIGH, Task
from taskflow.task.v1.task_service_pb2 import (
    CreateTaskRequest,
    ListTasksRequest,
    WatchTasksRequest,
)
from taskflow.task.v1.task_service_pb2_grpc import TaskServiceStub
from tests.faults.rpcs import Rpc
from tests.integration.people import PASSWORD, Person, Team, database

# Time limit (seconds) of every wait: far more than any wait takes, even on a busy machine.
_PATIENCE = 60.0
# Calls made as `leaver`, because they end the session. The server validates later such calls and then refuses them.
_ENDS_THE_SESSION = {"Logout"}
# Dead letters that tests parked are deleted. One of the product's own consumers would be a fault, so it stays.
_FORGET_LETTERS = Statement(
    text("DELETE FROM platform.dead_letters WHERE consumer NOT IN ('notification', 'dispatcher')")
)
_PROJECTS = 3
_TASKS = 6

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass
class Samples:
    """`ids` has object ids by kind. `seals` are page tokens and cursors that were valid when issued."""

    settings: Settings
    channels: dict[str, grpc.aio.Channel]
    db: Database
    team: Team
    owner: Person
    member: Person
    # Tests may end this user's sessions and change the password.
    leaver: Person
    operator: Person
    # A mark in every text of the samples: a search for it finds leaks.
    mark: str
    workspace_id: str = ""
    ids: dict[str, list[str]] = field(default_factory=dict)
    seals: list[str] = field(default_factory=list)
    # Page tokens and cursors of the workspace before the last `renew`; and requests for its next page, by RPC.
    past_seals: list[str] = field(default_factory=list)
    pages: dict[str, list[bytes]] = field(default_factory=dict)
    # Strings that count as a leak if an error text contains them.
    secrets: list[str] = field(default_factory=list)

    @property
    def service(self) -> Metadata:
        return ((SERVICE_HEADER, self.settings.service_secret.get_secret_value()),)

    def credentials(self, rpc: Rpc) -> Metadata:
        """Metadata of a caller who may make the call."""
        match rpc.access:
            case options_pb2.ACCESS_OPEN:
                return ()
            case options_pb2.ACCESS_SERVICE:
                return self.service
            case options_pb2.ACCESS_OPERATOR:
                return self.operator.credentials
        return (self.leaver if rpc.name in _ENDS_THE_SESSION else self.owner).credentials

    async def renew(self) -> None:
        """Replace every object by a new one in a new workspace: tests may have deleted or archived the old ones."""
        self.workspace_id = (await self.team.workspace(self.owner, display_name=self.mark)).id
        await self.team.add(self.owner, self.workspace_id, self.member.email, ROLE_MEMBER)
        self.ids["workspace"] = [self.workspace_id]
        self.ids["user"] = [self.member.id, self.owner.id]
        self.ids["batch"] = [str(uuid4())]
        self.ids["project"] = [await self._project(f"P{n}") for n in range(_PROJECTS)]
        self.ids["task"] = [await self._task(n) for n in range(_TASKS)]
        await self._suggest()
        await self._park()
        self.ids["job"] = await self._jobs()
        self.ids["suggestion"] = await self._suggestions()
        self.ids["dead_letter"] = await self._dead_letters()
        self.ids["notification"] = await self._notifications()
        self.past_seals = self.seals
        self.seals = await self._seals()
        self.past_seals = self.past_seals or self.seals

    async def _project(self, key: str) -> str:
        answer = await ProjectServiceStub(self.channels["task"]).CreateProject(
            CreateProjectRequest(
                workspace_id=self.workspace_id,
                project=Project(key=key, display_name=self.mark, description=self.mark),
            ),
            metadata=self.owner.credentials,
        )
        return answer.project.id

    async def _task(self, number: int) -> str:
        task = Task(title=f"{self.mark} {number}", description=self.mark, assignee_id=self.owner.id)
        task.payload.update({"handler": "message", "text": self.mark})
        answer = await TaskServiceStub(self.channels["task"]).CreateTask(
            CreateTaskRequest(project_id=self.ids["project"][number % _PROJECTS], task=task),
            metadata=self.member.credentials,
        )
        return answer.task.id

    async def _suggest(self) -> None:
        drafts = [
            SuggestionDraft(
                kind=SUGGESTION_KIND_PRIORITY,
                priority=TASK_PRIORITY_HIGH,
                reason=self.mark,
                model="test",
            ),
            SuggestionDraft(
                kind=SUGGESTION_KIND_DESCRIPTION,
                description=f"Better: {self.mark}",
                reason=self.mark,
                model="test",
            ),
        ]
        stub = SuggestionInternalServiceStub(self.channels["task"])
        for task_id in self.ids["task"][:3]:
            await stub.StoreSuggestions(
                StoreSuggestionsRequest(task_id=task_id, base_text_revision=1, suggestions=drafts),
                metadata=self.service,
            )

    async def _park(self) -> None:
        await DeadLetterInternalServiceStub(self.channels["notification"]).ParkEvent(
            ParkEventRequest(
                consumer="bad-input", subject="taskflow._.task.created", event_id=uuid4().hex
            ),
            metadata=self.service,
        )

    async def _jobs(self) -> list[str]:
        answer = await JobServiceStub(self.channels["task"]).ListJobs(
            ListJobsRequest(workspace_id=self.workspace_id), metadata=self.owner.credentials
        )
        return [job.id for job in answer.jobs]

    async def _suggestions(self) -> list[str]:
        answer = await SuggestionServiceStub(self.channels["task"]).ListSuggestions(
            ListSuggestionsRequest(workspace_id=self.workspace_id), metadata=self.owner.credentials
        )
        return [suggestion.id for suggestion in answer.suggestions]

    async def _dead_letters(self) -> list[str]:
        answer = await DeadLetterServiceStub(self.channels["notification"]).ListDeadLetters(
            ListDeadLettersRequest(page_size=3), metadata=self.operator.credentials
        )
        return [letter.id for letter in answer.dead_letters]

    async def _notifications(self) -> list[str]:
        """Notification ids of this workspace, once all have arrived."""
        stub = NotificationServiceStub(self.channels["notification"])
        async with asyncio.timeout(_PATIENCE):
            while True:
                answer = await stub.ListNotifications(
                    ListNotificationsRequest(), metadata=self.owner.credentials
                )
                found = [n.id for n in answer.notifications if n.workspace_id == self.workspace_id]
                if len(found) >= _TASKS:
                    return found
                await asyncio.sleep(0.05)

    async def _seals(self) -> list[str]:
        tasks, notices = (self.channels[name] for name in ("task", "notification"))
        mine: Any = {"metadata": self.owner.credentials}
        tasks_asked = ListTasksRequest(workspace_id=self.workspace_id, page_size=1)
        listed = await TaskServiceStub(tasks).ListTasks(tasks_asked, **mine)
        notices_asked = ListNotificationsRequest(page_size=1)
        told = await NotificationServiceStub(notices).ListNotifications(notices_asked, **mine)
        for asked, answer in ((tasks_asked, listed), (notices_asked, told)):
            asked.page_token = answer.next_page_token
            name = asked.DESCRIPTOR.name.removesuffix("Request")
            self.pages.setdefault(name, []).append(asked.SerializeToString())
        watches = (
            TaskServiceStub(tasks).WatchTasks(
                WatchTasksRequest(workspace_id=self.workspace_id), **mine
            ),
            NotificationServiceStub(notices).WatchNotifications(
                WatchNotificationsRequest(), **mine
            ),
        )
        cursors = []
        for watch in watches:
            first: Any = await watch.read()
            cursors.append(first.cursor)
            watch.cancel()
        return [listed.next_page_token, told.next_page_token, told.cursor, *cursors]


@asynccontextmanager
async def new_samples(settings: Settings) -> AsyncIterator[Samples]:
    """Samples on auth, task, notification and relay, which are already running."""
    async with AsyncExitStack() as opened:
        channels = {
            name: await opened.enter_async_context(
                grpc.aio.insecure_channel(
                    getattr(settings, name), options=[("grpc.max_send_message_length", -1)]
                )
            )
            for name in ("auth", "task", "notification")
        }
        db = await opened.enter_async_context(database(settings))
        team = Team(channels["auth"])
        people = [await team.person(name) for name in ("oda", "milo", "lea", "opal")]
        owner, member, leaver, operator = people
        async with db.transaction() as tx:
            await grant_operator(tx, operator.email)
        mark = f"mark{uuid4().hex}"
        samples = Samples(settings, channels, db, team, owner, member, leaver, operator, mark)
        samples.secrets = [
            PASSWORD,
            settings.token_secret.get_secret_value(),
            settings.service_secret.get_secret_value(),
            settings.postgres,
            *(person.tokens.refresh_token for person in people),
            *(person.tokens.access_token for person in people),
        ]
        await samples.renew()
        try:
            yield samples
        finally:
            async with db.transaction() as tx:
                await tx.run(_FORGET_LETTERS)
