"""Batch mails: their content, what can't be injected into them, and how SMTP answers are handled."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from html.parser import HTMLParser

import pytest

from tests.fakes.mail_receiver import MailReceiver, mail_receiver
from workflows.email.message import compose, message_id
from workflows.email.rendering import Item, render
from workflows.email.smtp import Mailer, PermanentMailError, SmtpSettings, TemporaryMailError

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def item(
    headline: str = "Bo assigned OPS-12 to you",
    text: str = "The key is at the front desk.",
    key: str = "OPS-12",
    title: str = "Fix the door",
    project: str = "Operations",
    link: str | None = "https://tasks.example/t/OPS-12?a=1&b=2",
    time: datetime = NOON,
) -> Item:
    return Item(headline, key, title, project, "Acme", time, text, link)


def mail(
    *items: Item,
    batch: str = "b-7",
    sender: str = "no-reply@tasks.example",
    recipient: str = "zoe@people.example",
    recipient_name: str = "",
    preferences_url: str | None = None,
) -> EmailMessage:
    rendered = render(items or [item()], preferences_url=preferences_url)
    return compose(
        batch,
        rendered,
        sender=sender,
        recipient=recipient,
        recipient_name=recipient_name,
        preferences_url=preferences_url,
    )


def mailer(receiver: MailReceiver) -> Mailer:
    return Mailer(SmtpSettings("127.0.0.1", receiver.port, timeout=5))


def body(message: EmailMessage, subtype: str) -> str:
    part = message.get_body((subtype,))
    assert part is not None
    content = part.get_content()
    assert isinstance(content, str)
    return content


class Page(HTMLParser):
    """Collects the open tags with attributes, the visible words, and unclosed tags."""

    VOID = frozenset({"meta", "br", "img"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += data

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)


def test_one_mail_shows_every_notification_of_the_batch_in_both_bodies() -> None:
    message = mail(item(), item(headline="OPS-13 is due in 1 hour", key="OPS-13", title="Sweep"))
    assert message["Subject"] == "2 notifications: Operations"
    for words in (body(message, "plain"), Page(body(message, "html")).words):
        for shown in ("Bo assigned OPS-12 to you", "OPS-13 is due in 1 hour", "Fix the door"):
            assert shown in words
        assert "Acme · Operations, Sun 22 Nov 2026, 12:00 UTC" in words
        assert "The key is at the front desk." in words


def test_notifications_in_a_mail_are_ordered_by_time_and_shown_in_the_readers_zone() -> None:
    later = item(headline="second", time=NOON.replace(hour=14))
    rendered = render([later, item(headline="first")], zone="Asia/Kolkata")
    assert rendered.text.index("first") < rendered.text.index("second")
    assert "17:30 IST" in rendered.text
    assert "19:30 IST" in rendered.html


@pytest.mark.parametrize(
    ("items", "subject"),
    [
        ([item()], "[OPS-12] Bo assigned OPS-12 to you"),
        ([item(), item(headline="Bo wrote")], "2 notifications: OPS-12 Fix the door"),
        ([item(), item(key="OPS-13")], "2 notifications: Operations"),
        ([item(), item(key="LAB-1", project="Lab")], "2 notifications: Acme"),
    ],
)
def test_the_mail_subject_names_what_the_batch_has_in_common(
    items: list[Item], subject: str
) -> None:
    assert render(items).subject == subject


def test_html_mails_need_no_style_sheet_script_or_remote_content() -> None:
    page = Page(body(mail(item(), preferences_url="https://tasks.example/me"), "html"))
    assert page.open == []
    assert not any(tag in ("script", "img", "link", "iframe", "form") for tag, _ in page.tags)
    for tag in ("td", "a", "p"):
        assert all(attributes.get("style") for attributes in page.all(tag))
    assert all(attributes.get("role") == "presentation" for attributes in page.all("table"))
    assert {attributes["href"] for attributes in page.all("a")} == {
        "https://tasks.example/t/OPS-12?a=1&b=2",
        "https://tasks.example/me",
    }


def test_html_in_task_texts_is_escaped_in_a_mail() -> None:
    evil = "<script>alert(1)</script><img src=x onerror=y> \"&'"
    page = Page(body(mail(item(headline=evil, text=evil, title=evil, project=evil)), "html"))
    assert not any(tag in ("script", "img") for tag, _ in page.tags)
    assert page.words.count("<script>alert(1)</script>") >= 3


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "https://a.example/\r\nX: y",
        'https://a.example/" onclick="x',
        "https://a.example/<b>",
        "//a.example",
    ],
)
def test_only_web_links_become_links(link: str) -> None:
    rendered = render([item(link=link)], preferences_url=link)
    assert list(Page(rendered.html).all("a")) == []
    assert link not in rendered.text
    message = mail(item(), preferences_url=link)
    assert message["List-Unsubscribe"] is None


def test_a_batch_always_has_the_same_message_id_and_body() -> None:
    first, second, other = mail(), mail(), mail(batch="b-8")
    assert first["Message-ID"] == second["Message-ID"] == "<b-7@tasks.example>"
    assert other["Message-ID"] != first["Message-ID"]
    assert first.get_payload(0).as_bytes() == second.get_payload(0).as_bytes()  # type: ignore[union-attr]
    assert first.get_boundary() == second.get_boundary()


@pytest.mark.parametrize(
    "batch", ["a b", "a>b", "é", "a\r\nBcc: x@y.example", "x" * 65, "", "a..b"]
)
def test_any_batch_id_makes_a_valid_message_id(batch: str) -> None:
    assert re.fullmatch(r"<[0-9a-f]{32}@d\.example>", message_id(batch, "d.example"))


def test_mail_headers_name_sender_date_and_no_reply() -> None:
    message = mail(recipient_name="Zoë Å", preferences_url="https://tasks.example/me")
    assert message["From"] == "TaskFlow <no-reply@tasks.example>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["List-Unsubscribe"] == "<https://tasks.example/me>"
    assert message["Date"].datetime.tzinfo is not None
    parsed = message_from_bytes(message.as_bytes(), policy=policy.default)
    assert parsed["To"].addresses[0].display_name == "Zoë Å"
    assert "Turn them off here: https://tasks.example/me" in body(message, "plain")
    assert "notification preferences" in body(mail(), "plain")


def test_no_text_can_add_a_mail_header() -> None:
    evil = "x\r\nBcc: thief@evil.example\r\n\r\nbody"
    message = mail(item(headline=evil, key=evil), recipient_name=evil)
    parsed = message_from_bytes(message.as_bytes(), policy=policy.default)
    assert parsed["Bcc"] is None
    assert len(parsed["To"].addresses) == 1
    assert parsed["Subject"].startswith("[x Bcc: thief")
    for address in ("a@b.example\r\nBcc: x@y.example", "a b@c.example", "a@b.example,x@y.example"):
        with pytest.raises(PermanentMailError):
            mail(recipient=address)


@pytest.mark.parametrize(
    "address", ["", "x", "@x.example", "a@", "a@b..c", "a@-b.example", "a@b@c"]
)
def test_an_invalid_address_is_a_permanent_error(address: str) -> None:
    with pytest.raises(PermanentMailError) as caught:
        mail(recipient=address)
    assert address == "" or address not in str(caught.value)


def test_any_unicode_text_can_be_mailed() -> None:
    odd = "null\0 bell\a surrogate\ud800 rtl\u202e " + "\U0001f468\u200d\U0001f33e" * 300
    message = mail(item(headline=odd, text=odd + "\n.\nafter the dot"))
    assert len(message["Subject"]) <= 120
    assert all(len(line) <= 998 for line in message.as_bytes().split(b"\r\n"))
    assert "\n  .\n" in body(message, "plain")


async def test_a_mail_arrives_unchanged() -> None:
    async with mail_receiver() as receiver:
        sent = mail(item(text="Grüße\n.\nund mehr"), recipient_name="Zoë")
        await mailer(receiver).send(sent)
    assert receiver.recipients == [["zoe@people.example"]]
    got = receiver.messages[0]
    assert got["Message-ID"] == sent["Message-ID"]
    assert got["To"].addresses[0].display_name == "Zoë"
    assert "Grüße" in body(got, "plain")
    assert "Grüße" in body(got, "html")
    assert got.get_content_type() == "multipart/alternative"


async def test_international_addresses_reach_the_right_domain() -> None:
    async with mail_receiver() as receiver:
        await mailer(receiver).send(mail(recipient="info@straße.example"))
        await mailer(receiver).send(mail(recipient="zoë@bücher.example"))
    assert receiver.recipients == [
        ["info@xn--strae-oqa.example"],
        ["zoë@xn--bcher-kva.example"],
    ]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("550 no such user", PermanentMailError),
        ("554 spam", PermanentMailError),
        ("450 mailbox busy", TemporaryMailError),
        ("421 shutting down", TemporaryMailError),
    ],
)
async def test_smtp_refusals_are_permanent_or_temporary_by_their_code(
    code: str, error: type[Exception]
) -> None:
    async with mail_receiver() as receiver:
        for replies in (receiver.rcpt_replies, receiver.data_replies):
            replies.append(code)
            with pytest.raises(error) as caught:
                await mailer(receiver).send(mail())
            replies.clear()
            assert "zoe" not in str(caught.value)
            assert caught.value.__cause__ is None
        await mailer(receiver).send(mail())
    assert len(receiver.messages) == 1


async def test_a_refused_sender_is_reported_as_a_settings_error() -> None:
    async with mail_receiver() as receiver:
        receiver.mail_replies.append("553 sender isn't yours")
        with pytest.raises(TemporaryMailError, match="553"):
            await mailer(receiver).send(mail())
        await mailer(receiver).send(mail())
    assert len(receiver.messages) == 1


async def test_a_refused_smtp_login_is_reported_as_a_settings_error() -> None:
    async with mail_receiver() as receiver:
        settings = SmtpSettings(
            host="127.0.0.1", port=receiver.port, start_tls=False, username="us", password="wrong"
        )
        with pytest.raises(TemporaryMailError, match="535"):
            await Mailer(settings).send(mail())


async def test_an_unreachable_mail_server_is_a_temporary_error() -> None:
    async with mail_receiver() as receiver:
        gone = mailer(receiver)
    with pytest.raises(TemporaryMailError):
        await gone.send(mail())


async def test_a_mail_resent_after_a_lost_answer_has_the_same_message_id() -> None:
    async with mail_receiver() as receiver:
        receiver.lose_answers = 1
        with pytest.raises(TemporaryMailError):
            await mailer(receiver).send(mail())
        await mailer(receiver).send(mail())
    first, second = (message["Message-ID"] for message in receiver.messages)
    assert first == second


def test_a_mail_without_notifications_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        render([])
