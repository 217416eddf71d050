"""One e-mail for a batch of notifications: rendered as text and HTML, and handed to SMTP."""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Final
from zoneinfo import ZoneInfo

import aiosmtplib
import idna
from css_inline import CSSInliner
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from workflows.enrichers.sanitise import clean_line, clean_text, cut

# Characters. Mail clients show about this much of a subject.
_MAX_SUBJECT: Final = 120
# What may stand in a Message-ID as it is; anything else is hashed.
_DOT_ATOM: Final = re.compile(r"[A-Za-z0-9_+/=-]+(?:\.[A-Za-z0-9_+/=-]+)*")
_LOGIN: Final = re.compile(r"\A[^@\s]+@[^@\s]+\Z")
# Printable ASCII without blanks and angle brackets.
_WEB_ADDRESS: Final = re.compile(r"https?://[!-;=?-~]+")

_TEMPLATES: Final = Environment(
    loader=PackageLoader("workflows", "templates"),
    autoescape=select_autoescape(("html",)),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
# Nothing is fetched while a mail is made, and the media query stays for clients that read it.
_INLINER: Final = CSSInliner(
    load_remote_stylesheets=False, keep_at_rules=True, keep_style_tags=False
)


class PermanentMailError(Exception):
    """This mail will not be taken (5xx, or an address that can't exist): don't try again."""


class TemporaryMailError(Exception):
    """Not now (4xx, no connection, time-out). The mail may have been taken all the same."""


@dataclass(frozen=True, slots=True)
class Item:
    """One notification. `time` is an instant; `link` an http(s) address, or None."""

    kind: str
    headline: str
    text: str
    task_key: str
    task_title: str
    project: str
    workspace: str
    time: datetime
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    subject: str
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class SmtpSettings:
    """`start_tls` None upgrades when the server offers it; `use_tls` speaks TLS from the start."""

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    use_tls: bool = False
    start_tls: bool | None = None
    timeout: float = 30.0  # seconds
    tls_context: ssl.SSLContext | None = field(default=None, repr=False)


def render(
    items: Sequence[Item],
    *,
    recipient_name: str = "",
    zone: str = "UTC",
    preferences_url: str | None = None,
) -> Rendered:
    """Subject and both bodies, newest last. `zone` is the reader's IANA zone.

    Raises ValueError without items, ZoneInfoNotFoundError for an unknown zone.
    """
    if not items:
        raise ValueError("a mail needs at least one notification")
    shown = [_shown(item, ZoneInfo(zone)) for item in sorted(items, key=lambda item: item.time)]
    subject = _subject(items)
    context = {
        "subject": subject,
        "name": clean_line(recipient_name),
        "items": shown,
        "preferences_url": _web_address(preferences_url),
    }
    text = _TEMPLATES.get_template("notifications.txt").render(context)
    html = _INLINER.inline(_TEMPLATES.get_template("notifications.html").render(context))
    return Rendered(subject, text, html)


def compose(
    batch_id: str,
    rendered: Rendered,
    *,
    sender: str,
    recipient: str,
    sender_name: str = "TaskFlow",
    recipient_name: str = "",
    preferences_url: str | None = None,
    now: datetime | None = None,
) -> EmailMessage:
    """The message. Its Message-ID depends on the batch and the sender's domain only, so that a
    duplicate after a lost answer of the mail server is recognisable.

    Raises `PermanentMailError` when an address can't be one.
    """
    origin = _address(sender, sender_name)
    message = EmailMessage(policy=SMTP)
    message["From"] = origin
    message["To"] = _address(recipient, recipient_name)
    message["Subject"] = rendered.subject
    message["Date"] = format_datetime(now or datetime.now(UTC))
    message["Message-ID"] = message_id(batch_id, origin.domain)
    message["Auto-Submitted"] = "auto-generated"
    preferences = _web_address(preferences_url)
    if preferences:
        message["List-Unsubscribe"] = f"<{preferences}>"
    message.set_content(rendered.text, cte="quoted-printable")
    message.add_alternative(rendered.html, subtype="html", cte="quoted-printable")
    # The boundary is random by default; a repeated mail should be the same mail.
    message.set_boundary(f"=_{_digest(batch_id)}")
    return message


def message_id(batch_id: str, domain: str) -> str:
    local = batch_id if _DOT_ATOM.fullmatch(batch_id) and len(batch_id) <= 64 else ""
    return f"<{local or _digest(batch_id)}@{domain}>"


class Mailer:
    """Hands messages to one mail server, a connection each."""

    def __init__(self, settings: SmtpSettings) -> None:
        self._settings = settings

    async def send(self, message: EmailMessage) -> None:
        """Returns when the server has taken the message.

        Raises `PermanentMailError` or `TemporaryMailError`, whose texts name the SMTP code and no
        address, and which have no cause: they end up in workflow histories.
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
                tls_context=settings.tls_context,
                timeout=settings.timeout,
            )
        except (aiosmtplib.SMTPException, OSError) as error:
            raise _classified(error) from None


def _classified(error: Exception) -> Exception:
    match error:
        case aiosmtplib.SMTPRecipientsRefused():
            # There is one recipient; were there more, one temporary refusal is worth a retry.
            code = min((refusal.code for refusal in error.recipients), default=550)
        case aiosmtplib.SMTPDataError():
            code = error.code
        case aiosmtplib.SMTPResponseException():
            # The account, the sender or this host: the mail isn't at fault, and somebody can mend it.
            return TemporaryMailError(f"the mail server takes no mail from us: {error.code}")
        case aiosmtplib.SMTPNotSupported():
            return PermanentMailError("the mail server can't do what this mail needs")
        case _:
            return TemporaryMailError("the mail server can't be reached or went away")
    if 500 <= code <= 599:
        return PermanentMailError(f"the mail server refused with {code}")
    return TemporaryMailError(f"the mail server answered {code}")


def _subject(items: Sequence[Item]) -> str:
    first = items[0]
    if len(items) == 1:
        return cut(clean_line(f"[{first.task_key}] {first.headline}"), _MAX_SUBJECT)
    if all(item.task_key == first.task_key for item in items):
        about = f"{first.task_key} {first.task_title}"
    elif all(item.project == first.project for item in items):
        about = first.project
    else:
        about = first.workspace
    return cut(clean_line(f"{len(items)} notifications: {about}"), _MAX_SUBJECT)


def _shown(item: Item, zone: ZoneInfo) -> dict[str, str | None]:
    return {
        "kind": clean_line(item.kind),
        "headline": clean_line(item.headline),
        "text": clean_text(item.text).strip(),
        "task_key": clean_line(item.task_key),
        "task_title": clean_line(item.task_title),
        "place": " · ".join(filter(None, map(clean_line, (item.workspace, item.project)))),
        "time": item.time.astimezone(zone).strftime("%a %d %b %Y, %H:%M %Z"),
        "link": _web_address(item.link),
    }


def _web_address(link: str | None) -> str | None:
    """The link when it is one for the web: a mail must not carry `javascript:` or line breaks."""
    if link is None or not _WEB_ADDRESS.fullmatch(link):
        return None
    return link


def _address(mailbox: str, name: str) -> Address:
    """With the domain as it travels (IDNA), and a name that can't break out of its header."""
    if not _LOGIN.fullmatch(mailbox) or clean_text(mailbox) != mailbox:
        raise PermanentMailError("not an e-mail address")
    login, _, domain = mailbox.rpartition("@")
    try:
        wire_domain = idna.encode(domain, uts46=True).decode("ascii")
        return Address(cut(clean_line(name), _MAX_SUBJECT), login, wire_domain)
    except (ValueError, IndexError) as error:
        raise PermanentMailError(f"not an e-mail address ({type(error).__name__})") from None


def _digest(batch_id: str) -> str:
    return hashlib.sha256(batch_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
