"""A mail server that stores mails and refuses those that a test tells it to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session


@dataclass
class MailReceiver:
    """`mail_replies`, `rcpt_replies` and `data_replies` are SMTP answers, used in order; then all is accepted."""

    port: int = 0
    messages: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    mail_replies: list[str] = field(default_factory=list)
    rcpt_replies: list[str] = field(default_factory=list)
    data_replies: list[str] = field(default_factory=list)
    # Seconds before each answer to MAIL and RCPT, and before the answer to a message that is accepted.
    tarpit: float = 0.0
    slow: float = 0.0
    # An address that is always refused, with that answer, and how often somebody tried to mail to it.
    refused: dict[str, str] = field(default_factory=dict)
    tries: Counter[str] = field(default_factory=Counter)
    # How many times to accept a message and close the connection instead of answering.
    lose_answers: int = 0

    async def handle_MAIL(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        await asyncio.sleep(self.tarpit)
        if self.mail_replies:
            return self.mail_replies.pop(0)
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        await asyncio.sleep(self.tarpit)
        self.tries[address] += 1
        if address in self.refused:
            return self.refused[address]
        if self.rcpt_replies and not self.rcpt_replies[0].startswith("250"):
            return self.rcpt_replies.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.data_replies:
            return self.data_replies.pop(0)
        content = envelope.content
        raw = content.encode() if isinstance(content, str) else content or b""
        message = message_from_bytes(raw, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.messages.append(message)
        self.recipients.append(list(envelope.rcpt_tos))
        await asyncio.sleep(self.slow)
        if self.lose_answers:
            self.lose_answers -= 1
            assert server.transport is not None
            server.transport.close()
        return "250 OK"


@asynccontextmanager
async def mail_receiver(port: int = 0) -> AsyncIterator[MailReceiver]:
    """Receive mail on the loopback until the block ends; port 0 means a free port."""
    fake = MailReceiver()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(
            fake,
            hostname="localhost",
            enable_SMTPUTF8=True,
            # Refuse every login: this mail server has no accounts.
            authenticator=lambda *_: AuthResult(success=False, handled=False),
            auth_require_tls=False,
            loop=loop,
        ),
        "127.0.0.1",
        port,
    )
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()
        await server.wait_closed()
