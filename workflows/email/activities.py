"""Activities of EmailBatch. gRPC errors pass through to activity_interceptor.py."""

import asyncio
from datetime import UTC, date
from email.message import EmailMessage
from email.utils import parseaddr
from typing import Final
from urllib.parse import quote

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from services.platform.rpc.zones import is_zone
from taskflow.auth.v1 import internal_service_pb2 as user_rpc
from taskflow.auth.v1.internal_service_pb2_grpc import UserInternalServiceStub
from taskflow.notification.v1 import internal_service_pb2 as email_rpc
from taskflow.notification.v1.internal_service_pb2_grpc import EmailInternalServiceStub
from taskflow.notification.v1.notification_pb2 import NOTIFICATION_KIND_ASSIGNED
from workflows.email.contract import FinishedBatch, MailBatch, MailOutcome
from workflows.email.message import compose
from workflows.email.rendering import Item, render
from workflows.email.smtp import (
    AddressRefusedError,
    Mailer,
    PermanentMailError,
    TemporaryMailError,
)
from workflows.feature import Activities

log = structlog.get_logger()

# The largest mail (bytes). Gmail shows the first 102 KB of a mail and would hide the footer of a larger one.
LARGEST_MAIL: Final = 100_000


class EmailActivities:
    """`sender` is an address with a display name, as in a From header; links begin with `public_url`."""

    def __init__(
        self,
        batches: EmailInternalServiceStub,
        users: UserInternalServiceStub,
        mailer: Mailer,
        sender: str,
        public_url: str,
    ) -> None:
        self._batches = batches
        self._users = users
        self._mailer = mailer
        self._sender_name, self._sender = parseaddr(sender)
        self._public_url = public_url

    def by_queue(self) -> Activities:
        # Earlier versions scheduled it on the slow queue.
        return Activities(quick=[self.finish], slow=[self.send], mail=[self.send])

    @activity.defn(name="email.send")
    async def send(self, batch: MailBatch) -> MailOutcome:
        """Mails the notifications of a batch that are still wanted. Returns when the mail server has accepted it."""
        prepared = await self._batches.PrepareEmailBatch(
            email_rpc.PrepareEmailBatchRequest(user_id=batch.user_id, batch_id=batch.batch_id)
        )
        if not prepared.items:
            return MailOutcome.EMPTY
        try:
            # Some 100 ms for 100 notifications: in a thread, so that the event loop isn't blocked.
            message = await asyncio.to_thread(self._message, batch.batch_id, prepared)
            await self._mailer.send(message)
        except AddressRefusedError as error:
            # When this call fails, the next try is refused again.
            await self._users.ReportBounce(
                user_rpc.ReportBounceRequest(user_id=batch.user_id, email=prepared.email)
            )
            raise ApplicationError(str(error), type="MAIL_REFUSED", non_retryable=True) from None
        except PermanentMailError as error:
            raise ApplicationError(str(error), type="MAIL_REFUSED", non_retryable=True) from None
        except TemporaryMailError as error:
            raise ApplicationError(str(error), type="MAIL_DELAYED") from None
        notifications = len(prepared.items) + prepared.more_count
        log.info("mail sent", batch_id=batch.batch_id, notifications=notifications)
        return MailOutcome.SENT

    def _message(
        self, batch_id: str, prepared: email_rpc.PrepareEmailBatchResponse
    ) -> EmailMessage:
        """Shows as many of the newest notifications as the largest mail holds, and the number of the others."""
        items = list(prepared.items)
        while True:
            message = self._composed(batch_id, prepared, items)
            size = len(message.as_bytes())
            if size <= LARGEST_MAIL or len(items) == 1:
                return message
            # A bit fewer than fit if all were equally long, and at least one fewer.
            items = items[-max(1, min(len(items) - 1, len(items) * LARGEST_MAIL // size)) :]

    def _composed(
        self,
        batch_id: str,
        prepared: email_rpc.PrepareEmailBatchResponse,
        items: list[email_rpc.EmailItem],
    ) -> EmailMessage:
        more = prepared.more_count + len(prepared.items) - len(items)
        rendered = render(
            [_item(item, self._public_url) for item in items],
            more=more,
            recipient_name=prepared.display_name,
            zone=_known_zone(prepared.time_zone),
        )
        tasks = {item.notification.task_id for item in items}
        return compose(
            batch_id,
            rendered,
            sender=self._sender,
            sender_name=self._sender_name,
            recipient=prepared.email,
            recipient_name=prepared.display_name,
            thread=tasks.pop() if len(tasks) == 1 and not more else "",
        )

    @activity.defn(name="email.finish")
    async def finish(self, finished: FinishedBatch) -> bool:
        """Records that a batch was sent, or why it can't be. Returns whether there is more to mail."""
        answer = await self._batches.FinishEmailBatch(
            email_rpc.FinishEmailBatchRequest(batch_id=finished.batch_id, error=finished.error)
        )
        return answer.more


def _item(item: email_rpc.EmailItem, public_url: str) -> Item:
    notification = item.notification
    # Headlines begin with the task's key.
    what = notification.headline.removeprefix(f"{notification.task_key} ")
    if notification.kind == NOTIFICATION_KIND_ASSIGNED and item.actor_name:
        what = f"{what} by {item.actor_name}"
    day = notification.due_date
    return Item(
        what=what,
        task_key=notification.task_key,
        task_title=notification.task_title,
        # The project's key. The subject of a mail about several tasks names it.
        project=notification.task_key.rpartition("-")[0],
        workspace=item.workspace_name,
        time=notification.create_time.ToDatetime(UTC),
        actor=item.actor_name,
        due_time=(
            notification.due_time.ToDatetime(UTC) if notification.HasField("due_time") else None
        ),
        due_date=(
            date(day.year, day.month, day.day) if notification.HasField("due_date") else None
        ),
        # Keys are unique within a workspace only.
        link=f"{public_url}/t/{quote(notification.task_key)}?workspace={notification.workspace_id}",
    )


def _known_zone(name: str) -> str:
    """UTC for a zone that this worker's zone rules lack: a mail with times in UTC is better than none."""
    return name if is_zone(name) else "UTC"
