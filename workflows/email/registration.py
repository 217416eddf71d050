"""The email feature, for registry.py."""

from typing import Final

from services.platform.config import Settings
from taskflow.event.v1.event_pb2 import NotificationCreated
from workflows.email import starts
from workflows.email.activities import EmailActivities
from workflows.email.smtp import Mailer, SmtpSettings
from workflows.email.workflow import EmailBatch
from workflows.feature import Activities, Feature
from workflows.service_stubs import ServiceStubs


def _build_activities(settings: Settings, stubs: ServiceStubs) -> Activities:
    mailer = Mailer(_smtp_settings(settings))
    return EmailActivities(
        stubs.email, stubs.users, mailer, settings.mail_from, settings.web
    ).by_queue()


def _smtp_settings(settings: Settings) -> SmtpSettings:
    """Connection settings of the configured mail server, or of the local mail catcher when none is configured."""
    standard_port = {"none": 25, "starttls": 587, "tls": 465}[settings.smtp_tls]
    local = settings.smtp_host is None
    return SmtpSettings(
        settings.smtp_host or settings.host,
        settings.smtp_port or (settings.mail_port if local else standard_port),
        settings.smtp_username,
        settings.smtp_password.get_secret_value() if settings.smtp_password else None,
        use_tls=settings.smtp_tls == "tls",
        start_tls=settings.smtp_tls == "starttls",
        authorities=settings.smtp_tls_ca,
    )


FEATURE: Final = Feature(
    definition=EmailBatch,
    build_activities=_build_activities,
    starts={NotificationCreated: starts.on_notification_created},
)
