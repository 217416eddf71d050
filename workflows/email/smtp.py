"""Hands messages to a mail server by SMTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib


class PermanentMailError(Exception):
    """Raised when another try is useless: the server answered 5xx, or an address can't exist."""


class TemporaryMailError(Exception):
    """Raised for 4xx, a lost connection or a timeout. The server may have accepted the mail nevertheless."""


@dataclass(frozen=True, slots=True)
class SmtpSettings:
    """`start_tls` None upgrades when the server offers it; `use_tls` speaks TLS from the start.

    `authorities` is a file of certificates that the server is checked with, instead of the system's.
    """

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    use_tls: bool = False
    start_tls: bool | None = None
    authorities: Path | None = None
    timeout: float = 30.0  # seconds


class Mailer:
    """Sends to one mail server, over a new connection for each message."""

    def __init__(self, settings: SmtpSettings) -> None:
        self._settings = settings

    async def send(self, message: EmailMessage) -> None:
        """Returns when the server has accepted the message.

        Raises `PermanentMailError` or `TemporaryMailError`. They enter workflow histories, so their texts name the SMTP
        code and no address, and they have no cause.
        """
        settings = self._settings
        try:
            await aiosmtplib.send(
                message,
                hostname=settings.host,
                port=settings.port,
                username=settings.username,
                password=settings.password,
                use_tls=settings.use_tls,
                start_tls=settings.start_tls,
                cert_bundle=str(settings.authorities) if settings.authorities else None,
                timeout=settings.timeout,
            )
        except (aiosmtplib.SMTPException, OSError) as error:
            raise _mail_error(error) from None


def _mail_error(error: Exception) -> Exception:
    match error:
        case aiosmtplib.SMTPRecipientsRefused():
            # Our mails have one recipient. With several, one temporary refusal would justify a retry.
            code = min((refusal.code for refusal in error.recipients), default=550)
        case aiosmtplib.SMTPDataError():
            code = error.code
        case aiosmtplib.SMTPResponseException():
            # The mail server refuses our login, sender or host, not this mail. An operator can correct the settings, so
            # retry.
            return TemporaryMailError(f"the mail server takes no mail from us: {error.code}")
        case aiosmtplib.SMTPNotSupported():
            return PermanentMailError("the mail server can't do what this mail needs")
        case _:
            return TemporaryMailError("the mail server can't be reached or went away")
    if 500 <= code <= 599:
        return PermanentMailError(f"the mail server refused with {code}")
    return TemporaryMailError(f"the mail server answered {code}")
