"""Batch mails: their content, what can't be injected into them, and how SMTP answers are handled."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from html.parser import HTMLParser
from typing import Any

import pytest

from tests.fakes.mail_receiver import MailReceiver, mail_receiver
from workflows.email import contract
from workflows.email.message import compose, message_id
from workflows.email.rendering import Item, render
from workflows.email.smtp import (
    AddressRefusedError,
    Mailer,
    PermanentMailError,
    SmtpSettings,
    TemporaryMailError,
    Timeouts,
)

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
_PATIENT = Timeouts(command=5, data=5)


def item(
    what: str = "was assigned to you by Bo",
    key: str = "OPS-12",
    title: str = "Fix the door",
    project: str = "OPS",
    link: str | None = "https://tasks.example/t/OPS-12?a=1&b=2",
    time: datetime = NOON,
    due_time: datetime | None = None,
    due_date: date | None = None,
    actor: str = "Bo",
) -> Item:
    return Item(what, key, title, project, "Acme", time, actor, due_time, due_date, link)


def mail(
    *items: Item,
    batch: str = "b-7",
    sender: str = "no-reply@tasks.example",
    recipient: str = "zoe@people.example",
    recipient_name: str = "",
    thread: str = "",
) -> EmailMessage:
    return compose(
        batch,
        render(items or [item()]),
        sender=sender,
        recipient=recipient,
        recipient_name=recipient_name,
        thread=thread,
    )


def mailer(receiver: MailReceiver, timeouts: Timeouts = _PATIENT) -> Mailer:
    return Mailer(SmtpSettings("127.0.0.1", receiver.port, timeouts=timeouts))


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
    message = mail(item(), item(what="is due in 1 hour", key="OPS-13", title="Sweep", actor=""))
    assert message["Subject"] == "2 notifications: OPS"
    for words in (body(message, "plain"), Page(body(message, "html")).words):
        assert "“Fix the door” was assigned to you by Bo" in words
        assert "“Sweep” is due in 1 hour" in words
        assert "OPS-12 · Bo · Acme · Sun 22 Nov 2026, 12:00 UTC" in words
        assert "OPS-13 · Acme · Sun 22 Nov 2026, 12:00 UTC" in words


def test_notifications_in_a_mail_are_ordered_by_time_and_shown_in_the_readers_zone() -> None:
    later = item("second", time=NOON.replace(hour=14))
    rendered = render([later, item("first")], zone="Asia/Kolkata")
    assert rendered.text.index("first") < rendered.text.index("second")
    assert "17:30 IST" in rendered.text
    assert "19:30 IST" in rendered.html


@pytest.mark.parametrize(
    ("deadline", "shown"),
    [
        ({"due_time": NOON}, "Due Sun 22 Nov 2026, 17:30 IST"),
        ({"due_time": NOON, "due_date": date(2026, 11, 22)}, "Due Sun 22 Nov 2026\n"),
        (
            {"due_time": datetime(9999, 12, 31, 23, 59, tzinfo=UTC)},
            "Due Fri 31 Dec 9999, 23:59 UTC",
        ),
    ],
)
def test_a_mail_says_when_the_task_is_due_in_the_readers_zone(
    deadline: dict[str, Any], shown: str
) -> None:
    rendered = render([item("is overdue", **deadline)], zone="Asia/Kolkata")
    assert shown in rendered.text
    assert shown.strip() in Page(rendered.html).words
    assert "Due" not in render([item()]).text


@pytest.mark.parametrize(
    ("items", "subject"),
    [
        ([item()], "[OPS-12] “Fix the door” was assigned to you by Bo"),
        ([item("is overdue")], "[OPS-12] “Fix the door” is overdue"),
        ([item(), item("is overdue")], "2 notifications: [OPS-12] Fix the door"),
        ([item(), item(key="OPS-13")], "2 notifications: OPS"),
        ([item(), item(key="LAB-1", project="LAB")], "2 notifications: Acme"),
    ],
)
def test_the_mail_subject_names_the_task_or_what_the_batch_has_in_common(
    items: list[Item], subject: str
) -> None:
    assert render(items).subject == subject


def test_a_long_title_leaves_the_rest_of_the_subject_readable() -> None:
    subject = render([item("is due in 1 hour", title="Door " * 50)]).subject
    assert len(subject) <= 120
    assert subject.startswith("[OPS-12] “Door Door")
    assert subject.endswith("…” is due in 1 hour")


def test_a_mail_that_cannot_show_everything_counts_the_rest() -> None:
    rendered = render([item(), item(key="OPS-13")], more=301)
    assert rendered.subject == "303 notifications: Acme"
    for words in (rendered.text, Page(rendered.html).words):
        assert "303 notifications for you" in words
        assert "and 301 more" in words
    assert "more" not in render([item()]).text


def test_html_mails_need_no_style_sheet_script_or_remote_content() -> None:
    page = Page(body(mail(), "html"))
    assert page.open == []
    assert not any(tag in ("script", "img", "link", "iframe", "form") for tag, _ in page.tags)
    for tag in ("td", "a", "p"):
        assert all(attributes.get("style") for attributes in page.all(tag))
    assert all(attributes.get("role") == "presentation" for attributes in page.all("table"))
    links = {attributes["href"] for attributes in page.all("a")}
    assert links == {"https://tasks.example/t/OPS-12?a=1&b=2"}


def test_html_in_task_texts_is_escaped_in_a_mail() -> None:
    evil = "<script>alert(1)</script><img src=x onerror=y> \"&'"
    page = Page(body(mail(item(evil, title=evil, key=evil)), "html"))
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
    rendered = render([item(link=link)])
    assert list(Page(rendered.html).all("a")) == []
    assert link not in rendered.text


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


def test_mail_headers_name_sender_date_list_and_no_reply() -> None:
    message = mail(recipient_name="Zoë Å")
    assert message["From"] == "TaskFlow <no-reply@tasks.example>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["List-Id"] == "TaskFlow <notifications.tasks.example>"
    assert message["Date"].datetime.tzinfo is not None
    parsed = message_from_bytes(message.as_bytes(), policy=policy.default)
    assert parsed["To"].addresses[0].display_name == "Zoë Å"


def test_a_mail_offers_no_link_to_unsubscribe_that_nothing_serves() -> None:
    message = mail()
    assert message["List-Unsubscribe"] is None
    for subtype in ("plain", "html"):
        assert "To turn them off: taskflow me set --mail off" in Page(body(message, subtype)).words


def test_mails_about_one_task_are_one_conversation() -> None:
    assigned, overdue = mail(batch="b-1", thread="t-1"), mail(batch="b-2", thread="t-1")
    assert assigned["References"] == overdue["References"] == "<task.t-1@tasks.example>"
    assert assigned["In-Reply-To"] == overdue["In-Reply-To"] == "<task.t-1@tasks.example>"
    assert assigned["Message-ID"] != overdue["Message-ID"]
    assert mail()["References"] is None


def test_no_text_can_add_a_mail_header() -> None:
    evil = "x\r\nBcc: thief@evil.example\r\n\r\nbody"
    message = mail(item(evil, key=evil, title=evil), recipient_name=evil)
    parsed = message_from_bytes(message.as_bytes(), policy=policy.default)
    assert parsed["Bcc"] is None
    assert len(parsed["To"].addresses) == 1
    assert parsed["Subject"].startswith("[x Bcc: thief")
    for address in ("a@b.example\r\nBcc: x@y.example", "a b@c.example", "a@b.example,x@y.example"):
        with pytest.raises(PermanentMailError):
            mail(recipient=address)


@pytest.mark.parametrize(
    "address",
    [
        *("", "x", "@x.example", "a@", "a@b..c", "a@-b.example", "a@b@c"),
        *(".dot@example.com", "dot.@example.com", "a..b@example.com", f"{'a' * 65}@example.com"),
    ],
)
def test_an_invalid_address_is_a_permanent_error(address: str) -> None:
    with pytest.raises(AddressRefusedError) as caught:
        mail(recipient=address)
    assert address == "" or address not in str(caught.value)


def test_any_unicode_text_can_be_mailed() -> None:
    odd = "null\0 bell\a surrogate\ud800 rtl\u202e " + "\U0001f468\u200d\U0001f33e" * 300
    message = mail(item(odd, title=odd))
    assert len(message["Subject"]) <= 120
    assert all(len(line) <= 998 for line in message.as_bytes().split(b"\r\n"))


async def test_a_mail_arrives_unchanged() -> None:
    async with mail_receiver() as receiver:
        sent = mail(item(title="Grüße"), recipient_name="Zoë")
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


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ("550 no such user", AddressRefusedError),
        ("550 5.1.1 no such user", AddressRefusedError),
        ("550 5.2.1 mailbox disabled", AddressRefusedError),
        ("552 5.2.2 mailbox full", PermanentMailError),
        ("550 5.7.1 relaying denied", PermanentMailError),
        ("553 5.1.8 we don't know your domain", PermanentMailError),
        ("530 5.7.0 log in first", TemporaryMailError),
        ("503 out of order", TemporaryMailError),
    ],
)
async def test_only_an_answer_about_the_address_itself_marks_it_as_refused(
    reply: str, error: type[Exception]
) -> None:
    async with mail_receiver() as receiver:
        receiver.rcpt_replies.append(reply)
        with pytest.raises(
            PermanentMailError if error is not TemporaryMailError else error
        ) as caught:
            await mailer(receiver).send(mail())
    assert type(caught.value) is error


async def test_a_refused_text_says_nothing_about_the_address() -> None:
    async with mail_receiver() as receiver:
        receiver.data_replies.append("550 5.1.1 looks like spam")
        with pytest.raises(PermanentMailError) as caught:
            await mailer(receiver).send(mail())
    assert type(caught.value) is PermanentMailError


async def test_a_server_may_take_longer_to_deliver_than_to_answer_a_command() -> None:
    """RFC 5321 section 4.5.3.2.6: a server that is still delivering must not get the mail twice."""
    async with mail_receiver() as receiver:
        receiver.slow = 1.0
        await mailer(receiver, Timeouts(command=0.5, data=20)).send(mail())
    assert len(receiver.messages) == 1


async def test_a_server_that_never_answers_a_command_is_a_temporary_error() -> None:
    async with mail_receiver() as receiver:
        receiver.tarpit = 2.0
        with pytest.raises(TemporaryMailError):
            await mailer(receiver, Timeouts(command=0.2, data=20)).send(mail())
    assert receiver.messages == []


def test_a_try_outlasts_every_timeout_of_the_mail_server() -> None:
    limits = Timeouts()
    # Connecting, greeting, EHLO twice, STARTTLS, two steps of AUTH, MAIL, RCPT; DATA and the final dot.
    assert limits.command >= 5 * 60
    assert limits.data >= 10 * 60
    longest = 9 * limits.command + 2 * limits.data
    assert contract.EMAIL_TIMEOUT.total_seconds() > longest


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
