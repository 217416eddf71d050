"""Workflows on Temporal's time-skipping server, with real activities and doubles of the services.

`pytest tests/workflows --record-histories` records the histories that test_replay.py replays.
"""

from __future__ import annotations

import json
import re
import sysconfig
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr
from temporalio.client import WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from services.platform.config import Settings
from tests.fakes.mail_receiver import MailReceiver, mail_receiver
from tests.workflows.services_double import SECRET, Services, serving_doubles
from workflows.due_times.activities import DueTimesActivities
from workflows.email.activities import EmailActivities
from workflows.email.smtp import Mailer, SmtpSettings, Timeouts
from workflows.enrichment.activities import EnrichmentActivities
from workflows.enrichment.enrichers import EnrichRequest, Proposal
from workflows.enrichment.enrichers.heuristic import HeuristicEnricher
from workflows.enrichment.text_process import TextProcess
from workflows.jobs.activities import JobActivities
from workflows.jobs.handlers import Handler
from workflows.reminders.activities import ReminderActivities
from workflows.service_stubs import ServiceStubs
from workflows.worker import build_workers

HISTORIES = Path(__file__).parent / "histories"
# Planted in titles, addresses, payloads and errors. No history may contain it.
PRIVATE = "hortensia"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-histories", action="store_true", help="record tests/workflows/histories again"
    )


class FakeModel:
    """An enricher that returns or raises a test's answers in turn. When they run out, the offline rules answer."""

    def __init__(self) -> None:
        self.answers: list[Exception | Callable[[], Awaitable[list[Proposal]]]] = []
        self.asked: list[EnrichRequest] = []
        self.texts = TextProcess(0.5)
        self._rules = HeuristicEnricher(self.texts)

    async def suggest(self, request: EnrichRequest) -> list[Proposal]:
        self.asked.append(request)
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return await answer()
        return await self._rules.suggest(request)

    async def close(self) -> None:
        await self._rules.close()


class Examine:
    """Checks that a run's history holds nothing private, and records it with --record-histories."""

    def __init__(self, record: bool) -> None:
        self._record = record

    async def __call__(self, handle: WorkflowHandle[Any, Any], name: str = "") -> dict[str, Any]:
        history = await handle.fetch_history()
        # The JSON form of a history would hide payloads as base64.
        kept = b"".join(event.SerializeToString() for event in history.events)
        assert PRIVATE.encode() not in kept
        assert b"people.example" not in kept
        content: dict[str, Any] = json.loads(history.to_json())
        if self._record and name:
            _write(name, handle.id, content)
        return content


def _write(name: str, workflow_id: str, history: dict[str, Any]) -> None:
    """Writes one event a line, without worker identities and stack traces, which name this machine."""
    events = ",\n".join(json.dumps(event) for event in history["events"])
    text = f'{{"workflowId": {json.dumps(workflow_id)}, "events": [\n{events}\n]}}\n'
    text = re.sub(r'"identity": "[^"]*"', '"identity": "worker"', text)
    text = re.sub(r'"stackTrace": "(?:[^"\\]|\\.)*"', '"stackTrace": ""', text)
    (HISTORIES / f"{name}.json").write_text(text)


@pytest.fixture(scope="session")
async def env() -> AsyncIterator[WorkflowEnvironment]:
    server = Path(sysconfig.get_path("scripts")) / "temporal-test-server"
    environment = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=str(server)
    )
    async with environment:
        yield environment


@pytest.fixture(scope="session")
async def all_services(env: WorkflowEnvironment) -> AsyncIterator[Services]:
    async def clock() -> datetime:
        return await env.get_current_time()

    async with serving_doubles(clock) as doubles:
        yield doubles


@pytest.fixture(scope="session")
async def receiver() -> AsyncIterator[MailReceiver]:
    async with mail_receiver() as running:
        yield running


@pytest.fixture(scope="session")
def all_handlers() -> dict[str, Handler]:
    return {}


@pytest.fixture(scope="session")
async def worker(
    env: WorkflowEnvironment,
    all_services: Services,
    receiver: MailReceiver,
    all_handlers: dict[str, Handler],
) -> AsyncIterator[FakeModel]:
    """The workers as the process runs them; yields the model that their activities call."""
    settings = Settings(
        auth_address=all_services.address,
        task_address=all_services.address,
        notification_address=all_services.address,
        service_secret=SecretStr(SECRET),
    )
    stubs = ServiceStubs(settings)
    model = FakeModel()
    mailer = Mailer(SmtpSettings("127.0.0.1", receiver.port, timeouts=Timeouts(5, 5)))
    activities = [
        EnrichmentActivities(stubs.suggestions, model).by_queue(),
        ReminderActivities(stubs.reminders).by_queue(),
        DueTimesActivities(stubs.reminders).by_queue(),
        JobActivities(stubs.jobs, all_handlers).by_queue(),
        EmailActivities(
            stubs.email,
            stubs.users,
            mailer,
            "TaskFlow <no-reply@tasks.example>",
            "https://tasks.example",
        ).by_queue(),
    ]
    async with AsyncExitStack() as stack:
        for each in build_workers(env.client, activities, 20):
            await stack.enter_async_context(each)
        yield model
    await model.close()
    await stubs.close()


@pytest.fixture
def services(all_services: Services, worker: FakeModel) -> Services:
    """Empty doubles, with workers that call them."""
    all_services.reset()
    return all_services


@pytest.fixture
def model(worker: FakeModel) -> FakeModel:
    worker.answers.clear()
    worker.asked.clear()
    return worker


@pytest.fixture
def mails(receiver: MailReceiver) -> MailReceiver:
    receiver.messages.clear()
    receiver.data_replies.clear()
    receiver.rcpt_replies.clear()
    receiver.lose_answers = 0
    receiver.slow = 0.0
    return receiver


@pytest.fixture
def examine(request: pytest.FixtureRequest) -> Examine:
    return Examine(bool(request.config.getoption("--record-histories", default=False)))


@pytest.fixture
def task_id() -> str:
    return str(uuid4())
