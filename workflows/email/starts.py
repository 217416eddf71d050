"""Events that start or signal EmailBatch."""

from services.platform.config import Settings
from taskflow.event.v1.event_pb2 import NotificationCreated
from workflows.email.contract import UserMail, email_id
from workflows.email.workflow import EmailBatch
from workflows.feature import Start


def on_notification_created(facts: NotificationCreated, settings: Settings) -> list[Start]:
    return [
        Start(
            EmailBatch.run,
            UserMail(facts.user_id, settings.email_window),
            email_id(facts.user_id),
            signal="notified",
            signal_argument=facts.notification_id,
            # One signal is enough: all notifications that a batch of events announces are committed before the
            # dispatcher reads it.
            one_signal_per_batch=True,
        )
    ]
