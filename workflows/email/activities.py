"""Activities of EmailBatch. gRPC errors pass through to activity_interceptor.py."""

import asyncio
from datetime import UTC
from email.message import EmailMessage
from email.utils import parseaddr
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from taskflow.notification.v1 import internal_service_pb2 as email_rpc
from taskflow.notification.v1.internal_service_pb2_grpc import EmailInternalServiceStub
from workflows.email.contract import FinishedBatch, MailBatch, MailOutcome
from workflows.email.message import compose
from workflows.email.rendering import Item, render
from workflows.email.smtp import Mailer, PermanentMailError, TemporaryMailError
from workflows.feature import Activities

log = structlog.get_logger()


class EmailActivities:
    """`sender` is an address with a display name, as in a From header."""

    def __init__(self, stub: EmailInternalServiceStub, mailer: Mailer, sender: str) -> None:
        self._stub = stub
        self._mailer = mailer
        self._sender_name, self._sender = parseaddr(sender)

    def by_queue(self) -> Activities:
        return Activities(quick=[self.finish], slow=[self.send])

    @activity.defn(name="email.send")
    async def send(self, batch: MailBatch) -> MailOutcome:
        """Mails the notifications of a batch that are still wanted. Returns when the mail server has accepted it."""
        prepared = await self._stub.PrepareEmailBatch(
            email_rpc.PrepareEmailBatchRequest(user_id=batch.user_id, batch_id=batch.batch_id)
        )
        if not prepared.items:
            return MailOutcome.EMPTY
        try:
            # Rendering 200 notifications takes some 100 ms. It runs in a thread, so that it doesn't block the event
            # loop.
            message = await asyncio.to_thread(self._message, batch.batch_id, prepared)
            await self._mailer.send(message)
        except PermanentMailError as error:
            raise ApplicationError(str(error), type="MAIL_REFUSED", non_retryable=True) from None
        except TemporaryMailError as error:
            raise ApplicationError(str(error), type="MAIL_DELAYED") from None
        log.info("mail sent", batch_id=batch.batch_id, notifications=len(prepared.items))
        return MailOutcome.SENT

    def _message(
        self, batch_id: str, prepared: email_rpc.PrepareEmailBatchResponse
    ) -> EmailMessage:
        rendered = render(
            [_item(item) for item in prepared.items],
            recipient_name=prepared.display_name,
            zone=_known_zone(prepared.time_zone),
        )
        return compose(
            batch_id,
            rendered,
            sender=self._sender,
            sender_name=self._sender_name,
            recipient=prepared.email,
            recipient_name=prepared.display_name,
        )

    @activity.defn(name="email.finish")
    async def finish(self, finished: FinishedBatch) -> None:
        """Records that a batch was sent, or why it can't be."""
        await self._stub.FinishEmailBatch(
            email_rpc.FinishEmailBatchRequest(batch_id=finished.batch_id, error=finished.error)
        )


def _item(item: email_rpc.EmailItem) -> Item:
    notification = item.notification
    return Item(
        headline=notification.headline,
        task_key=notification.task_key,
        task_title=notification.task_title,
        # The project's key. The subject of a mail about several tasks names it.
        project=notification.task_key.rpartition("-")[0],
        workspace=item.workspace_name,
        time=notification.create_time.ToDatetime(UTC),
    )


def _known_zone(name: str) -> str:
    """UTC for a zone that this machine's tables lack: a mail with times in UTC is better than none."""
    try:
        return ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError):
        return "UTC"
