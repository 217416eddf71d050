"""Hands messages to a mail server by SMTP."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final

import aiosmtplib

# Enhanced status codes (RFC 3463) of refusals whose cause isn't the recipient's address. The server refuses our own
# address (x.1.7, x.1.8), the mailbox is full or the mail too long for it (x.2.2, x.2.3), or the cause is something
# else, such as a policy (x.3 to x.9).
_NOT_THE_ADDRESS: Final = re.compile(r"5\.(?:1\.[78]|2\.[23]|[3-9]\.\d+)\b")
# 503 (commands out of order) and 530 (login needed) refuse us, not the address. An operator can correct that.
_NOT_FOR_US: Final = (503, 530)
# Seconds that we wait for the goodbye of a server that has accepted the mail.
_GOODBYE: Final = 5.0


class PermanentMailError(Exception):
    """Raised when another try is useless: the server answered 5xx, or an address can't exist."""


class AddressRefusedError(PermanentMailError):
    """Raised when mail to this address can never be delivered."""


class TemporaryMailError(Exception):
    """Raised for 4xx, a lost connection or a timeout. The server may have accepted the mail nevertheless."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that a server may take, by RFC 5321 section 4.5.3.2. All of them together are 71 minutes."""

    # To connect, to greet, and for each answer: to EHLO twice, STARTTLS, AUTH twice, MAIL and RCPT.
    command: float = 300.0
    # For each of the answers to DATA and to the final dot: 3 minutes to take the text, and 10 minutes to deliver it. A
    # shorter one would mail it again while the server is still accepting it.
    data: float = 780.0


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
    timeouts: Timeouts = Timeouts()


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
        client = _Client(
            hostname=settings.host,
            port=settings.port,
            username=settings.username,
            password=settings.password,
            use_tls=settings.use_tls,
            start_tls=settings.start_tls,
            cert_bundle=str(settings.authorities) if settings.authorities else None,
            timeout=settings.timeouts.command,
        )
        client.data_timeout = settings.timeouts.data
        try:
            async with client:
                await client.send_message(message)
        except (aiosmtplib.SMTPException, OSError) as error:
            raise _mail_error(error) from None


class _Client(aiosmtplib.SMTP):
    data_timeout: float

    async def data(self, message: str | bytes, /, **_: Any) -> aiosmtplib.SMTPResponse:
        return await super().data(message, timeout=self.data_timeout)

    async def quit(self, **_: Any) -> aiosmtplib.SMTPResponse:
        return await super().quit(timeout=_GOODBYE)


def _mail_error(error: Exception) -> Exception:
    match error:
        case aiosmtplib.SMTPRecipientsRefused():
            # There is one recipient.
            [refusal] = error.recipients
            code = refusal.code
            if code in _NOT_FOR_US:
                return TemporaryMailError(f"the mail server takes no mail from us: {code}")
            if 500 <= code <= 599 and not _NOT_THE_ADDRESS.match(refusal.message):
                return AddressRefusedError(f"the mail server refused the address with {code}")
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
