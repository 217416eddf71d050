"""One user gets more notifications than a workflow run may have signals, while the mail server refuses all mail.

NATS, Temporal and the worker are real and belong to this scenario only; services and mail server are doubles.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from nats.js.errors import NotFoundError
from pydantic import SecretStr
from temporalio.client import Client
from uuid_utils.compat import uuid7

from deploy.local.stack import running_stack
from services.platform.config import Settings
from services.platform.events.bus import Bus
from services.platform.events.subjects import STREAM
from taskflow.event.v1.event_pb2 import Event, NotificationCreated
from taskflow.notification.v1.internal_service_pb2 import EmailItem
from taskflow.notification.v1.notification_pb2 import Notification
from tests.conftest import settings_for
from tests.fakes.mail_receiver import MailReceiver, mail_receiver
from tests.faults.harness.scenario import Run, Tally
from tests.workflows.services_double import SECRET, Services, serving_doubles
from workflows.contract import HISTORY_LIMIT
from workflows.dispatcher import CONSUMER, SUBJECTS

PROMISE = "Mail is neither doubled nor forgotten"
LIMIT_SECONDS = {"short": 90.0, "long": 1200.0}

# Temporal allows 10,000 signals per run. The short profile needs two runs of the product's workflow.
_NOTIFICATIONS: Final = (150, 10_300)
# Seconds from the end of the refusals until everything is mailed, plus the longest retry pause so far.
_PATIENCE: Final = 30.0


@dataclass(frozen=True)
class MailPath:
    """The servers on the way from a notification to its mail."""

    settings: Settings
    bus: Bus
    services: Services
    mails: MailReceiver
    user_id: str


async def run(run: Run, tally: Tally) -> None:
    count = run.choose(*_NOTIFICATIONS)
    async with _mail_path(run) as path:
        path.mails.data_replies = ["451 not now"] * 1_000
        begun = time.monotonic()
        for number in range(count):
            await _notify(path, number)
            if number % 1000 == 999:
                run.say(f"{number + 1:,} notifications, {len(path.services.parked)} parked")
        refused = time.monotonic() - begun
        tally.operations = count
        tally.faults = 1_000 - len(path.mails.data_replies)
        path.mails.data_replies.clear()
        run.say(f"the mail server takes mail again after {refused:.0f} s")
        # The retry pause doubles, so the next try comes within the time that the outage has lasted.
        tally.recovered_after(await _all_mailed(path, count, refused + _PATIENCE))
        await _check(path, count, tally)


@asynccontextmanager
async def _mail_path(run: Run) -> AsyncIterator[MailPath]:
    async with mail_receiver() as mails, serving_doubles(_now) as services:
        settings = settings_for(
            run.folder / "data",
            auth_address=services.address,
            task_address=services.address,
            notification_address=services.address,
            service_secret=SecretStr(SECRET),
            smtp_host="127.0.0.1",
            smtp_port=mails.port,
            event_retry_pause=0.5,
        )
        async with running_stack(settings, only={"nats", "temporal", "worker"}) as stack:
            bus = Bus(stack.settings, name="harness")
            await bus.connect()
            await bus.ensure_stream()
            # Create the consumer as the relay does.
            await bus.add_durable(CONSUMER, SUBJECTS, 0)
            yield MailPath(stack.settings, bus, services, mails, str(uuid7()))
            await bus.close()


async def _now() -> datetime:
    return datetime.now(UTC)


async def _notify(path: MailPath, number: int) -> None:
    """Publish an event and wait until the dispatcher handled it, so that each event needs its own signal."""
    told = Notification(id=str(uuid7()), headline=f"OPS-{number} is yours")
    path.services.unread.append(EmailItem(notification=told, workspace_name="Acme"))
    event = Event(
        id=told.id,
        type="notification.created",
        aggregate_id=told.id,
        notification_created=NotificationCreated(notification_id=told.id, user_id=path.user_id),
    )
    await path.bus.jetstream.publish(
        f"taskflow.{path.user_id}.notification.created",
        event.SerializeToString(),
        headers={"Nats-Msg-Id": event.id},
    )
    while await _pending(path.bus):
        await asyncio.sleep(0.002)


async def _pending(bus: Bus) -> int:
    try:
        info = await bus.jetstream.consumer_info(STREAM, CONSUMER)
    except NotFoundError:
        return 1
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


async def _all_mailed(path: MailPath, count: int, patience: float) -> float:
    """Wait until everything is mailed or the time is over; returns the seconds."""
    begun = time.monotonic()
    while sum(_mailed(path).values()) < count and time.monotonic() - begun < patience:
        await asyncio.sleep(0.2)
    return time.monotonic() - begun


def _mailed(path: MailPath) -> Counter[str]:
    """Notification → number of accepted mails that contain it."""
    accepted = Counter(
        str(mail["Message-ID"]).strip("<>").partition("@")[0] for mail in path.mails.messages
    )
    mailed: Counter[str] = Counter()
    for batch, items in path.services.batches.items():
        for item in items:
            mailed[item.notification.id] += accepted[batch]
    return mailed


async def _check(path: MailPath, count: int, tally: Tally) -> None:
    mailed = _mailed(path)
    tally.lost += count - sum(times > 0 for times in mailed.values())
    tally.doubled += sum(max(0, times - 1) for times in mailed.values())
    parked = len(path.services.parked)
    tally.expect(parked == 0, f"{parked} of {count} events were parked")
    client = await Client.connect(path.settings.temporal)
    runs = [run async for run in client.list_workflows("WorkflowType='EmailBatch'")]
    longest = max((run.history_length for run in runs), default=0)
    tally.expect(longest < 10 * HISTORY_LIMIT, f"a run of the mail had {longest:,} events")
    tally.figures["mails"] = f"{len(path.mails.messages)} after {tally.faults} refused tries"
    tally.figures["runs"] = f"{len(runs)}, the longest with {longest:,} events"
