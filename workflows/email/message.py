"""The MIME message around a rendered mail: addresses, headers and Message-ID."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Final

import idna

from workflows.email.rendering import MAX_SUBJECT, Rendered, web_address
from workflows.email.smtp import PermanentMailError
from workflows.sanitise import clean_line, clean_text, cut

# A batch id that matches this goes into the Message-ID as it is; any other is hashed.
_DOT_ATOM: Final = re.compile(r"[A-Za-z0-9_+/=-]+(?:\.[A-Za-z0-9_+/=-]+)*")
_MAILBOX: Final = re.compile(r"\A[^@\s]+@[^@\s]+\Z")


def compose(
    batch_id: str,
    rendered: Rendered,
    *,
    sender: str,
    recipient: str,
    sender_name: str = "TaskFlow",
    recipient_name: str = "",
    preferences_url: str | None = None,
) -> EmailMessage:
    """Builds the message. Its Message-ID depends only on the batch and the sender's domain, so a repeat has the same
    one.

    A mail is sent again when the mail server's answer was lost. Raises `PermanentMailError` for an invalid address.
    """
    origin = _address(sender, sender_name)
    message = EmailMessage(policy=SMTP)
    message["From"] = origin
    message["To"] = _address(recipient, recipient_name)
    message["Subject"] = rendered.subject
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = message_id(batch_id, origin.domain)
    message["Auto-Submitted"] = "auto-generated"
    preferences = web_address(preferences_url)
    if preferences:
        message["List-Unsubscribe"] = f"<{preferences}>"
    message.set_content(rendered.text, cte="quoted-printable")
    message.add_alternative(rendered.html, subtype="html", cte="quoted-printable")
    # Python's default MIME boundary is random. A fixed one makes a repeated mail identical to the first.
    message.set_boundary(f"=_{_digest(batch_id)}")
    return message


def message_id(batch_id: str, domain: str) -> str:
    local = batch_id if _DOT_ATOM.fullmatch(batch_id) and len(batch_id) <= 64 else ""
    return f"<{local or _digest(batch_id)}@{domain}>"


def _address(mailbox: str, name: str) -> Address:
    """The address with its domain in IDNA form. The name is cleaned, so that it can't add a mail header."""
    if not _MAILBOX.fullmatch(mailbox) or clean_text(mailbox) != mailbox:
        raise PermanentMailError("not an e-mail address")
    local, _, domain = mailbox.rpartition("@")
    try:
        wire_domain = idna.encode(domain, uts46=True).decode("ascii")
        return Address(cut(clean_line(name), MAX_SUBJECT), local, wire_domain)
    except (ValueError, IndexError) as error:
        raise PermanentMailError(f"not an e-mail address ({type(error).__name__})") from None


def _digest(batch_id: str) -> str:
    return hashlib.sha256(batch_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
