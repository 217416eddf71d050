"""Deletes old records of mails."""

from datetime import timedelta

from services.notification.email.models import email_batches
from services.platform.data.retention import Kind, aged

# Time that the record of a mail is kept. The worker gives up a mail after one day.
_KEPT = timedelta(days=30)


def kinds() -> list[Kind]:
    return [aged("email_batches", email_batches, email_batches.c.created_at, _KEPT)]
