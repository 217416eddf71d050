"""The subject, text and HTML of one mail for a batch of notifications."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final
from zoneinfo import ZoneInfo

from css_inline import CSSInliner
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from services.platform.rpc import zones
from workflows.sanitise import clean_line, cut

# Longest subject (characters): about what mail clients show.
MAX_SUBJECT: Final = 120
# Characters of the title that a subject shows at least.
_SHORTEST_TITLE: Final = 40
# Printable ASCII without spaces and angle brackets.
_WEB_ADDRESS: Final = re.compile(r"https?://[!-;=?-~]+")

_TEMPLATES: Final = Environment(
    loader=PackageLoader("workflows.email", "templates"),
    autoescape=select_autoescape(("html",)),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
# Inlines the CSS without fetching anything. Keeps the media query, which some mail clients apply.
_INLINER: Final = CSSInliner(
    load_remote_stylesheets=False, keep_at_rules=True, keep_style_tags=False
)


@dataclass(frozen=True, slots=True)
class Item:
    """One notification: the task, and `what` happened to it, such as "is overdue". `link` is an http(s) address."""

    what: str
    task_key: str
    task_title: str
    project: str
    workspace: str
    time: datetime
    # Empty for the system.
    actor: str = ""
    # The task's deadline; the date as well if the deadline is one.
    due_time: datetime | None = None
    due_date: date | None = None
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    subject: str
    text: str
    html: str


def render(
    items: Sequence[Item], *, more: int = 0, recipient_name: str = "", zone: str = "UTC"
) -> Rendered:
    """Returns the subject, and both bodies with the newest item last. `zone` is the recipient's IANA zone.

    `more` is the number of further notifications, which the mail only counts.

    Raises ValueError without items, or for an unknown zone.
    """
    if not items:
        raise ValueError("a mail needs at least one notification")
    shown = [_shown(item, zones.load(zone)) for item in sorted(items, key=lambda item: item.time)]
    subject = _subject(items, more)
    context = {
        "subject": subject,
        "name": clean_line(recipient_name),
        "items": shown,
        "count": len(items) + more,
        "more": more,
    }
    text = _TEMPLATES.get_template("notifications.txt").render(context)
    html = _INLINER.inline(_TEMPLATES.get_template("notifications.html").render(context))
    return Rendered(subject, text, html)


def _subject(items: Sequence[Item], more: int) -> str:
    first = items[0]
    if len(items) == 1 and not more:
        start, end = f"[{clean_line(first.task_key)}] ", f" {clean_line(first.what)}"
        room = max(_SHORTEST_TITLE, MAX_SUBJECT - len(start) - len(end))
        return cut(clean_line(f"{start}{_quoted(first.task_title, room)}{end}"), MAX_SUBJECT)
    if more:
        about = first.workspace
    elif all(item.task_key == first.task_key for item in items):
        about = f"[{first.task_key}] {first.task_title}"
    elif all(item.project == first.project for item in items):
        about = first.project
    else:
        about = first.workspace
    return cut(clean_line(f"{len(items) + more} notifications: {about}"), MAX_SUBJECT)


def _quoted(title: str, room: int) -> str:
    """The title in quotation marks, in at most `room` characters."""
    line = clean_line(title)
    return f"“{line}”" if len(line) + 2 <= room else f"“{cut(line, room - 3)}…”"


def _shown(item: Item, zone: ZoneInfo) -> dict[str, str | None]:
    title = clean_line(item.task_title)
    return {
        "task_key": clean_line(item.task_key),
        "task_title": title,
        "what": clean_line(item.what),
        "due": _due(item, zone),
        "place": " · ".join(filter(None, map(clean_line, (item.actor, item.workspace)))),
        "time": _moment(item.time, zone),
        "link": web_address(item.link),
    }


def _due(item: Item, zone: ZoneInfo) -> str:
    """The deadline in the reader's zone; empty without one. A date is the same in every zone."""
    if item.due_date is not None:
        return _day(item.due_date)
    return _moment(item.due_time, zone) if item.due_time is not None else ""


def _moment(time: datetime, zone: ZoneInfo) -> str:
    try:
        local = time.astimezone(zone)
    except OverflowError:
        # The year 9999 in UTC is the year 10000 farther east.
        local = time
    return f"{_day(local)}, {local:%H:%M %Z}"


def _day(day: date) -> str:
    # strftime pads years before 1000 differently on each system.
    return f"{day:%a} {day.day} {day:%b} {day.year}"


def web_address(link: str | None) -> str | None:
    """The link if it is an http(s) address: a mail must not carry `javascript:` or line breaks."""
    return link if link and _WEB_ADDRESS.fullmatch(link) else None
