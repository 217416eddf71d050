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

from services.platform.rpc import mail_address
from workflows.email.rendering import MAX_SUBJECT, Rendered
from workflows.email.smtp import AddressRefusedError
from workflows.sanitise import clean_line, cut

# A batch id that matches this goes into the Message-ID as it is; any other is hashed.
_DOT_ATOM: Final = re.compile(r"[A-Za-z0-9_+/=-]+(?:\.[A-Za-z0-9_+/=-]+)*")


def compose(
    batch_id: str,
    rendered: Rendered,
    *,
    sender: str,
    recipient: str,
    sender_name: str = "TaskFlow",
    recipient_name: str = "",
    thread: str = "",
) -> EmailMessage:
    """Builds the message. Its Message-ID depends only on the batch and the sender's domain, so a repeat has the same
    one.

    A duplicate is sent when the mail server's answer was lost. `thread` is the id of the task that the whole mail is
    about: mail clients show its mails as one conversation. Raises `AddressRefusedError` for an invalid address.
    """
    origin = _address(sender, sender_name)
    message = EmailMessage(policy=SMTP)
    message["From"] = origin
    message["To"] = _address(recipient, recipient_name)
    message["Subject"] = rendered.subject
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = message_id(batch_id, origin.domain)
    if thread:
        # No mail has this id. Clients group the mails that refer to it (RFC 5256).
        root = message_id(f"task.{thread}", origin.domain)
        message["In-Reply-To"] = root
        message["References"] = root
    message["Auto-Submitted"] = "auto-generated"
    # RFC 2919. There is no List-Unsubscribe: nothing serves such a link yet.
    message["List-Id"] = f"TaskFlow <notifications.{origin.domain}>"
    message.set_content(rendered.text, cte="quoted-printable")
    message.add_alternative(rendered.html, subtype="html", cte="quoted-printable")
    # Python's default MIME boundary is random. A fixed one makes a repeated mail identical to the first.
    message.set_boundary(f"=_{_digest(batch_id)}")
    return message


def message_id(batch_id: str, domain: str) -> str:
    local = batch_id if _DOT_ATOM.fullmatch(batch_id) and len(batch_id) <= 64 else ""
    return f"<{local or _digest(batch_id)}@{domain}>"


def _address(mailbox: str, name: str) -> Address:
    """The domain is encoded for the wire (IDNA). The name can't break out of its header."""
    try:
        local, _, domain = mail_address.on_the_wire(mailbox).rpartition("@")
        return Address(cut(clean_line(name), MAX_SUBJECT), local, domain)
    except (ValueError, IndexError) as error:
        raise AddressRefusedError(f"not an e-mail address ({type(error).__name__})") from None


def _digest(batch_id: str) -> str:
    return hashlib.sha256(batch_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
