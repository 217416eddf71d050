"""EmailBatch: one mail per window, and the same mail in every try."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import uuid4

import grpc
import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.testing import WorkflowEnvironment

from taskflow.notification.v1 import internal_service_pb2 as email_rpc
from taskflow.notification.v1 import notification_pb2
from tests.fakes.mail_receiver import MailReceiver
from tests.workflows.conftest import PRIVATE, Examine
from tests.workflows.services_double import Services
from workflows import history_limit
from workflows.contract import HISTORY_LIMIT, TASK_QUEUE
from workflows.email import contract
from workflows.email.contract import UserMail, email_id
from workflows.email.workflow import EmailBatch

Handle = WorkflowHandle[EmailBatch, None]

WINDOW = timedelta(minutes=5)
# This many signals make a run's history too long, so that the run continues as new.
MANY = HISTORY_LIMIT + 50


@pytest.fixture
def user_id() -> str:
    return str(uuid4())


async def notify(
    env: WorkflowEnvironment,
    services: Services,
    user_id: str,
    key: str = "OPS-12",
    window: timedelta = WINDOW,
) -> Handle:
    """Adds an unread notification, and starts or signals the workflow as the dispatcher does."""
    notification = notification_pb2.Notification(
        id=str(uuid4()),
        kind=notification_pb2.NOTIFICATION_KIND_ASSIGNED,
        task_key=key,
        task_title=f"Fix the door of {PRIVATE}",
        headline=f"{key} was assigned to you",
    )
    notification.create_time.FromDatetime(datetime(2026, 11, 22, 12, tzinfo=UTC))
    services.unread.append(
        email_rpc.EmailItem(notification=notification, workspace_name="Acme", actor_name="Bo")
    )
    return await env.client.start_workflow(
        EmailBatch.run,
        UserMail(user_id, window.total_seconds()),
        id=email_id(user_id),
        task_queue=TASK_QUEUE,
        start_signal="notified",
        start_signal_args=[notification.id],
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )


async def storm(env: WorkflowEnvironment, services: Services, user_id: str, count: int) -> None:
    """Adds notifications as fast as Temporal accepts their signals."""
    for _ in range(0, count, 50):
        await asyncio.gather(*(notify(env, services, user_id) for _ in range(50)))


async def first_run(env: WorkflowEnvironment, handle: Handle) -> WorkflowHandle[EmailBatch, None]:
    """A handle of the run that `handle` started, which has continued as new since."""
    first = env.client.get_workflow_handle_for(
        EmailBatch.run, handle.id, run_id=handle.result_run_id
    )
    async with asyncio.timeout(10):
        while (await first.describe()).status is not WorkflowExecutionStatus.CONTINUED_AS_NEW:
            await asyncio.sleep(0.02)
    return first


async def test_notifications_within_the_window_go_out_in_one_mail(
    env: WorkflowEnvironment,
    services: Services,
    mails: MailReceiver,
    examine: Examine,
    user_id: str,
) -> None:
    await notify(env, services, user_id, "OPS-12")
    await env.sleep(WINDOW / 2)
    assert mails.messages == []
    handle = await notify(env, services, user_id, "OPS-13")
    await handle.result()
    (mail,) = mails.messages
    assert mail["To"] == "Zoë <zoe@people.example>"
    assert mail["Subject"] == "2 notifications: OPS"
    assert mail["From"] == "TaskFlow <no-reply@tasks.example>"
    body = mail.get_body(("plain",))
    assert body is not None
    text = body.get_content()
    assert f"Fix the door of {PRIVATE}" in text
    assert "OPS-12 · Bo · Acme · Sun 22 Nov 2026, 13:00 CET" in text
    assert list(services.finished_batches.values()) == [""]
    await examine(handle, "email_batch")


async def test_notifications_read_within_the_window_are_not_mailed(
    env: WorkflowEnvironment,
    services: Services,
    mails: MailReceiver,
    examine: Examine,
    user_id: str,
) -> None:
    handle = await notify(env, services, user_id)
    services.unread.clear()
    await handle.result()
    assert mails.messages == []
    assert services.finished_batches == {}
    await examine(handle, "email_nothing_left")


async def test_after_a_lost_answer_the_mail_is_sent_again_with_the_same_message_id(
    env: WorkflowEnvironment,
    services: Services,
    mails: MailReceiver,
    examine: Examine,
    user_id: str,
) -> None:
    mails.lose_answers = 1
    handle = await notify(env, services, user_id)
    await handle.result()
    first, second = mails.messages
    (batch,) = services.batches
    assert first["Message-ID"] == second["Message-ID"] == f"<{batch}@tasks.example>"
    assert services.finished_batches == {batch: ""}
    await examine(handle, "email_repeated")


async def test_no_second_mail_goes_out_while_the_first_can_not_be_recorded(
    env: WorkflowEnvironment,
    services: Services,
    mails: MailReceiver,
    examine: Examine,
    user_id: str,
) -> None:
    services.outages["FinishEmailBatch"] = [grpc.StatusCode.UNAVAILABLE] * 5
    handle = await notify(env, services, user_id)
    await handle.result()
    assert len(mails.messages) == 1
    assert list(services.finished_batches.values()) == [""]
    await examine(handle)


async def test_a_busy_mail_server_gets_the_mail_later(
    env: WorkflowEnvironment,
    services: Services,
    mails: MailReceiver,
    examine: Examine,
    user_id: str,
) -> None:
    mails.data_replies = [f"451 {PRIVATE}, not now"] * 4
    handle = await notify(env, services, user_id)
    await handle.result()
    assert len(mails.messages) == 1
    assert len(services.batches) == 1
    await examine(handle, "email_tried_again")


async def test_a_mail_that_is_refused_for_good_is_recorded_with_the_reason(
    env: WorkflowEnvironment,
    services: Services,
    mails: MailReceiver,
    examine: Examine,
    user_id: str,
) -> None:
    mails.rcpt_replies = ["550 zoe@people.example is unknown"]
    handle = await notify(env, services, user_id)
    await handle.result()
    assert mails.messages == []
    assert list(services.finished_batches.values()) == [
        "the mail server refused the address with 550"
    ]
    assert services.bounced == ["zoe@people.example"]
    await examine(handle, "email_refused")


async def test_an_outage_of_the_auth_service_does_not_forget_a_refused_address(
    env: WorkflowEnvironment, services: Services, mails: MailReceiver, user_id: str
) -> None:
    services.outages["ReportBounce"] = [grpc.StatusCode.UNAVAILABLE] * 2
    mails.rcpt_replies = ["550 5.1.1 unknown"] * 3
    handle = await notify(env, services, user_id)
    await handle.result()
    assert services.bounced == ["zoe@people.example"]
    assert list(services.finished_batches.values()) == [
        "the mail server refused the address with 550"
    ]


async def test_a_mail_shows_what_fits_into_100_kb_and_counts_the_rest(
    env: WorkflowEnvironment, services: Services, mails: MailReceiver, user_id: str
) -> None:
    await storm(env, services, user_id, 500)
    handle = await notify(env, services, user_id, "OPS-99")
    await handle.result()
    (mail,) = mails.messages
    assert mail["Subject"] == "501 notifications: Acme"
    assert len(mail.as_bytes()) < 100_000
    for subtype in ("plain", "html"):
        body = mail.get_body((subtype,))
        assert body is not None
        text = body.get_content()
        shown = text.count("was assigned to you by Bo") - (subtype == "html")  # the preview
        assert shown > 20
        assert f"and {501 - shown} more" in text
        assert "OPS-99" in text
        assert "To turn them off" in text


async def test_more_notifications_than_a_batch_takes_go_out_in_further_mails(
    env: WorkflowEnvironment, services: Services, mails: MailReceiver, user_id: str
) -> None:
    services.largest_batch = 2
    for _ in range(5):
        handle = await notify(env, services, user_id)
    await handle.result()
    assert [len(items) for items in services.batches.values()] == [2, 2, 1]
    assert len(mails.messages) == 3


async def test_a_slow_mail_server_gets_each_mail_once(
    env: WorkflowEnvironment, services: Services, mails: MailReceiver, user_id: str
) -> None:
    mails.slow = 1.0
    handle = await notify(env, services, user_id)
    with env.auto_time_skipping_disabled():
        await env.sleep(WINDOW)
        await handle.result()
    assert len(mails.messages) == 1
    assert len(services.calls["PrepareEmailBatch"]) == 1


async def test_a_mail_links_to_the_task(
    env: WorkflowEnvironment, services: Services, mails: MailReceiver, user_id: str
) -> None:
    await (await notify(env, services, user_id)).result()
    body = mails.messages[0].get_body(("plain",))
    assert body is not None
    workspace = services.batches.popitem()[1][0].notification.workspace_id
    assert f"https://tasks.example/t/OPS-12?workspace={workspace}" in body.get_content()


async def test_a_mail_server_that_is_down_for_a_day_fails_the_batch(
    env: WorkflowEnvironment,
    services: Services,
    mails: MailReceiver,
    examine: Examine,
    user_id: str,
) -> None:
    mails.data_replies = ["451 not now"] * 1000
    handle = await notify(env, services, user_id)
    await handle.result()
    assert list(services.finished_batches.values()) == ["the mail server answered 451"]
    prepared = services.calls["PrepareEmailBatch"]
    assert timedelta(hours=23) < prepared[-1] - prepared[0] <= contract.EMAIL_TOTAL_TIMEOUT
    await examine(handle)


async def test_a_notification_that_comes_while_a_mail_is_sent_is_in_the_next_mail(
    env: WorkflowEnvironment,
    services: Services,
    mails: MailReceiver,
    examine: Examine,
    user_id: str,
) -> None:
    async def more() -> None:
        del services.during["FinishEmailBatch"]
        await notify(env, services, user_id, "OPS-13")

    services.during["FinishEmailBatch"] = more
    handle = await notify(env, services, user_id, "OPS-12")
    await handle.result()
    assert [mail["Subject"] for mail in mails.messages] == [
        f"[OPS-12] “Fix the door of {PRIVATE}” was assigned to you by Bo",
        f"[OPS-13] “Fix the door of {PRIVATE}” was assigned to you by Bo",
    ]
    first, second = services.calls["PrepareEmailBatch"]
    assert second - first >= WINDOW
    await examine(handle, "email_two_batches")


async def test_without_a_window_mail_goes_out_at_once(
    env: WorkflowEnvironment, services: Services, mails: MailReceiver, user_id: str
) -> None:
    handle = await notify(env, services, user_id, window=timedelta(0))
    with env.auto_time_skipping_disabled():
        await handle.result()
    assert len(mails.messages) == 1


async def test_unknown_zones_are_shown_in_utc(
    env: WorkflowEnvironment, services: Services, mails: MailReceiver, user_id: str
) -> None:
    services.recipient = ("zoe@people.example", "Zoë", "Mars/Olympus_Mons")
    await (await notify(env, services, user_id)).result()
    body = mails.messages[0].get_body(("plain",))
    assert body is not None
    assert "12:00 UTC" in body.get_content()


async def test_a_user_with_a_steady_flow_of_notifications_gets_all_of_them_over_several_runs(
    env: WorkflowEnvironment,
    services: Services,
    mails: MailReceiver,
    examine: Examine,
    user_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A notification comes whenever a batch ends, until the run has continued as new."""
    monkeypatch.setattr(history_limit, "HISTORY_LIMIT", 100)
    wanted = 12

    async def more() -> None:
        if len(mails.messages) < wanted:
            await notify(env, services, user_id, window=timedelta(seconds=1))

    services.during["FinishEmailBatch"] = more
    handle = await notify(env, services, user_id, window=timedelta(seconds=1))
    await handle.result()
    assert len(mails.messages) == wanted
    first = env.client.get_workflow_handle(handle.id, run_id=handle.result_run_id)
    assert (await first.describe()).status is WorkflowExecutionStatus.CONTINUED_AS_NEW
    await examine(first)


async def test_a_refused_mail_is_retried_by_new_runs_with_the_same_message_id(
    env: WorkflowEnvironment,
    services: Services,
    mails: MailReceiver,
    examine: Examine,
    user_id: str,
) -> None:
    """A run that waits for its next try continues as new long before Temporal's limit of 10,000 signals."""
    mails.data_replies = ["451 not now"] * 6
    handle = await notify(env, services, user_id, window=timedelta(0))
    with env.auto_time_skipping_disabled():
        while len(mails.data_replies) == 6:
            await asyncio.sleep(0.01)
        await storm(env, services, user_id, MANY)
    first = await first_run(env, handle)
    await handle.result()
    assert len(services.batches) == 2
    assert [len(items) for items in services.batches.values()] == [1, MANY]
    assert [mail["Message-ID"] for mail in mails.messages] == [
        f"<{batch}@tasks.example>" for batch in services.batches
    ]
    assert services.finished_batches == dict.fromkeys(services.batches, "")
    # The new run continues the backoff of the run before it.
    tries = services.calls["PrepareEmailBatch"][:7]
    pauses = [(later - earlier).total_seconds() for earlier, later in pairwise(tries)]
    assert pauses == pytest.approx([5, 10, 20, 40, 80, 160], abs=3)
    await examine(first, "email_continued_while_refused")


async def test_a_window_that_spans_several_runs_ends_on_time(
    env: WorkflowEnvironment,
    services: Services,
    mails: MailReceiver,
    examine: Examine,
    user_id: str,
) -> None:
    begun = await env.get_current_time()
    handle = await notify(env, services, user_id)
    await env.sleep(WINDOW / 2)
    with env.auto_time_skipping_disabled():
        await storm(env, services, user_id, MANY)
    first = await first_run(env, handle)
    await handle.result()
    sent = services.calls["PrepareEmailBatch"][0]
    assert WINDOW <= sent - begun < WINDOW + timedelta(seconds=20)
    assert len(services.batches) == len(mails.messages) == 1
    assert [len(items) for items in services.batches.values()] == [1 + MANY]
    await examine(first, "email_continued_in_the_window")


async def test_a_long_run_looks_again_before_it_ends_even_without_a_signal(
    env: WorkflowEnvironment,
    services: Services,
    mails: MailReceiver,
    examine: Examine,
    user_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the signal limit Temporal refuses signals, so a notification can come without a signal."""
    monkeypatch.setattr(history_limit, "HISTORY_LIMIT", 10_000)
    handle = await notify(env, services, user_id)
    await storm(env, services, user_id, 100)
    last = services.unread.pop()

    async def without_a_signal() -> None:
        del services.during["FinishEmailBatch"]
        monkeypatch.setattr(history_limit, "HISTORY_LIMIT", 50)
        services.unread.append(last)

    services.during["FinishEmailBatch"] = without_a_signal
    await handle.result()
    await first_run(env, handle)
    assert [len(items) for items in services.batches.values()] == [100, 1]
    assert len(mails.messages) == 2


async def test_a_worker_that_dies_while_sending_costs_one_try(
    env: WorkflowEnvironment,
    services: Services,
    mails: MailReceiver,
    user_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contract, "EMAIL_TIMEOUT", timedelta(seconds=2))
    lost = asyncio.Event()

    async def hang() -> None:
        del services.during["PrepareEmailBatch"]
        await lost.wait()

    services.during["PrepareEmailBatch"] = hang
    handle = await notify(env, services, user_id)
    try:
        await handle.result()
    finally:
        lost.set()
    assert len(mails.messages) == 1
    assert len(services.calls["PrepareEmailBatch"]) == 2
