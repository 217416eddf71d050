"""The subject, text and HTML of one mail for a batch of notifications."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from css_inline import CSSInliner
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from workflows.sanitise import clean_line, clean_text, cut

# Longest subject (characters): about what mail clients show.
MAX_SUBJECT: Final = 120
# Links in mails may hold printable ASCII only, without spaces and angle brackets.
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
    """One notification in a mail. `link` is an http(s) address."""

    headline: str
    task_key: str
    task_title: str
    project: str
    workspace: str
    time: datetime
    text: str = ""
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    subject: str
    text: str
    html: str


def render(
    items: Sequence[Item],
    *,
    recipient_name: str = "",
    zone: str = "UTC",
    preferences_url: str | None = None,
) -> Rendered:
    """Subject and both bodies, newest last. `zone` is the recipient's IANA zone.

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
        "preferences_url": web_address(preferences_url),
    }
    text = _TEMPLATES.get_template("notifications.txt").render(context)
    html = _INLINER.inline(_TEMPLATES.get_template("notifications.html").render(context))
    return Rendered(subject, text, html)


def _subject(items: Sequence[Item]) -> str:
    first = items[0]
    if len(items) == 1:
        return cut(clean_line(f"[{first.task_key}] {first.headline}"), MAX_SUBJECT)
    if all(item.task_key == first.task_key for item in items):
        about = f"{first.task_key} {first.task_title}"
    elif all(item.project == first.project for item in items):
        about = first.project
    else:
        about = first.workspace
    return cut(clean_line(f"{len(items)} notifications: {about}"), MAX_SUBJECT)


def _shown(item: Item, zone: ZoneInfo) -> dict[str, str | None]:
    return {
        "headline": clean_line(item.headline),
        "text": clean_text(item.text).strip(),
        "task_key": clean_line(item.task_key),
        "task_title": clean_line(item.task_title),
        "place": " · ".join(filter(None, map(clean_line, (item.workspace, item.project)))),
        "time": item.time.astimezone(zone).strftime("%a %d %b %Y, %H:%M %Z"),
        "link": web_address(item.link),
    }


def web_address(link: str | None) -> str | None:
    """The link if it is an http(s) address: a mail must not carry `javascript:` or line breaks."""
    return link if link and _WEB_ADDRESS.fullmatch(link) else None
