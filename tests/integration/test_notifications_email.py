"""Promises of EmailInternalService: the content of a mail, and that nothing is mailed twice."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy import text

from services.notification.email import logic
from services.platform.config import Settings
from services.platform.data.db import Statement
from services.platform.rpc.identity import SERVICE_HEADER
from taskflow.auth.v1.internal_service_pb2 import ReportBounceRequest
from taskflow.auth.v1.internal_service_pb2_grpc import UserInternalServiceStub
from taskflow.auth.v1.user_pb2 import User
from taskflow.auth.v1.user_service_pb2 import (
    BatchGetUsersRequest,
    GetCurrentUserRequest,
    UpdateCurrentUserRequest,
)
from taskflow.notification.v1.internal_service_pb2 import (
    FinishEmailBatchRequest,
    PrepareEmailBatchRequest,
    PrepareEmailBatchResponse,
)
from taskflow.notification.v1.internal_service_pb2_grpc import EmailInternalServiceStub
from tests.integration.notification_world import NotificationWorld, a_notification_world
from tests.integration.people import Person, refusal


@pytest.fixture(scope="module")
async def world(settings: Settings) -> AsyncIterator[NotificationWorld]:
    async with a_notification_world(settings) as made:
        yield made


@pytest.fixture
async def mail(world: NotificationWorld) -> AsyncIterator["Mail"]:
    async with (
        grpc.aio.insecure_channel(world.settings.notification) as notification,
        grpc.aio.insecure_channel(world.settings.auth) as auth,
    ):
        yield Mail(notification, auth, world.settings.service_secret.get_secret_value())


@pytest.fixture
async def ben(world: NotificationWorld) -> Person:
    """A user with three notifications."""
    person = await world.member("ben")
    await world.assign(*[person] * 3)
    await world.wait_for_notifications(person, 3)
    return person


class Mail:
    def __init__(self, notification: grpc.aio.Channel, auth: grpc.aio.Channel, secret: str) -> None:
        self.stub = EmailInternalServiceStub(notification)
        self.users = UserInternalServiceStub(auth)
        self.credentials = ((SERVICE_HEADER, secret),)

    async def prepare(self, person: Person, batch_id: str) -> PrepareEmailBatchResponse:
        return await self.stub.PrepareEmailBatch(
            PrepareEmailBatchRequest(user_id=person.id, batch_id=batch_id),
            metadata=self.credentials,
        )

    async def finish(self, batch_id: str, error: str = "") -> bool:
        """Whether more has to be mailed."""
        answer = await self.stub.FinishEmailBatch(
            FinishEmailBatchRequest(batch_id=batch_id, error=error), metadata=self.credentials
        )
        return bool(answer.more)

    async def report_bounce(self, person: Person, email: str) -> None:
        await self.users.ReportBounce(
            ReportBounceRequest(user_id=person.id, email=email), metadata=self.credentials
        )


async def switch_mail(world: NotificationWorld, person: Person, on: bool) -> None:
    request = UpdateCurrentUserRequest(
        user=User(email_notifications=on), update_mask=FieldMask(paths=["email_notifications"])
    )
    await world.team.users.UpdateCurrentUser(request, metadata=person.credentials)


async def me(world: NotificationWorld, person: Person) -> User:
    answer = await world.team.users.GetCurrentUser(
        GetCurrentUserRequest(), metadata=person.credentials
    )
    return answer.user


async def skipped(world: NotificationWorld, person: Person) -> dict[str, int]:
    """Why notifications of the person are never mailed, and how many."""
    statement = Statement(
        text(
            "SELECT error, count(*) FROM notification.email_batches AS batches"
            " JOIN notification.notifications ON email_batch_id = batches.id"
            " WHERE batches.user_id = :person AND state = 'SKIPPED' GROUP BY error"
        )
    )
    async with world.db.transaction() as tx:
        return dict(await tx.all(statement, person=UUID(person.id)))


def numbers(batch: PrepareEmailBatchResponse) -> list[int]:
    return [item.notification.sequence for item in batch.items]


async def test_a_mail_lists_unread_notifications_with_names(
    world: NotificationWorld, mail: Mail, ben: Person
) -> None:
    newest = (await world.listed(ben))[0]
    await world.mark_read(ben, newest.id)
    batch = await mail.prepare(ben, str(uuid4()))
    assert numbers(batch) == [1, 2]
    assert (batch.email, batch.display_name) == (ben.email, ben.user.display_name)
    assert batch.time_zone == ben.user.time_zone
    assert batch.items[0].workspace_name == "Ops"
    assert batch.items[0].actor_name == world.owner.user.display_name


async def test_a_repeated_batch_keeps_its_content_minus_what_was_read_meanwhile(
    world: NotificationWorld, mail: Mail, ben: Person
) -> None:
    batch_id = str(uuid4())
    assert numbers(await mail.prepare(ben, batch_id)) == [1, 2, 3]
    await world.assign(ben)
    newest = (await world.wait_for_notifications(ben, 4))[1]
    await world.mark_read(ben, newest.id)
    assert numbers(await mail.prepare(ben, batch_id)) == [1, 2]
    assert numbers(await mail.prepare(ben, str(uuid4()))) == [4]


async def test_mailed_notifications_are_not_mailed_again(mail: Mail, ben: Person) -> None:
    batch_id = str(uuid4())
    await mail.prepare(ben, batch_id)
    for _ in range(2):
        await mail.finish(batch_id)
        await mail.finish(batch_id, "too late to fail")
        assert numbers(await mail.prepare(ben, batch_id)) == []
        assert numbers(await mail.prepare(ben, str(uuid4()))) == []


async def test_a_batch_that_cannot_be_sent_is_given_up(mail: Mail, ben: Person) -> None:
    batch_id = str(uuid4())
    await mail.prepare(ben, batch_id)
    await mail.finish(batch_id, "550 no such mailbox")
    assert numbers(await mail.prepare(ben, batch_id)) == []
    assert numbers(await mail.prepare(ben, str(uuid4()))) == []


async def test_a_batch_without_unread_notifications_is_empty(
    world: NotificationWorld, mail: Mail, ben: Person
) -> None:
    await world.mark_all_read(ben)
    nothing = PrepareEmailBatchResponse()
    assert await mail.prepare(ben, str(uuid4())) == nothing
    newcomer = await world.member("nia")
    assert await mail.prepare(newcomer, str(uuid4())) == nothing
    await mail.finish(str(uuid4()))


async def test_a_user_who_switched_mail_off_gets_none(
    world: NotificationWorld, mail: Mail, ben: Person
) -> None:
    batch_id = str(uuid4())
    assert numbers(await mail.prepare(ben, batch_id)) == [1, 2, 3]
    await switch_mail(world, ben, on=False)
    assert await mail.prepare(ben, batch_id) == PrepareEmailBatchResponse()
    assert await skipped(world, ben) == {"mail is switched off": 3}


@pytest.mark.parametrize("looked", [True, False], ids=["after a window", "within the window"])
async def test_mail_that_is_switched_on_contains_nothing_from_before(
    world: NotificationWorld, mail: Mail, ben: Person, looked: bool
) -> None:
    await switch_mail(world, ben, on=False)
    if looked:
        assert numbers(await mail.prepare(ben, str(uuid4()))) == []
    await switch_mail(world, ben, on=True)
    await world.assign(ben)
    await world.wait_for_notifications(ben, 4)
    batch_id = str(uuid4())
    batch = await mail.prepare(ben, batch_id)
    assert (numbers(batch), batch.more_count) == ([4], 0)
    assert not await mail.finish(batch_id)
    assert list((await skipped(world, ben)).values()) == [3]


async def test_a_mail_that_waits_is_not_sent_after_mail_was_switched_off_and_on(
    world: NotificationWorld, mail: Mail, ben: Person
) -> None:
    batch_id = str(uuid4())
    assert numbers(await mail.prepare(ben, batch_id)) == [1, 2, 3]
    await switch_mail(world, ben, on=False)
    await switch_mail(world, ben, on=True)
    assert numbers(await mail.prepare(ben, batch_id)) == []
    assert await skipped(world, ben) == {"they are from before mail was switched on": 3}


async def test_switching_on_what_is_on_already_forgets_no_mail(
    world: NotificationWorld, mail: Mail, ben: Person
) -> None:
    await switch_mail(world, ben, on=True)
    assert numbers(await mail.prepare(ben, str(uuid4()))) == [1, 2, 3]


async def test_a_refused_address_gets_no_mail_until_its_user_switches_mail_on_again(
    world: NotificationWorld, mail: Mail, ben: Person
) -> None:
    batch_id = str(uuid4())
    await mail.prepare(ben, batch_id)
    await mail.report_bounce(ben, "somebody.else@example.com")
    assert not (await me(world, ben)).HasField("email_bounce_time")
    for _ in range(2):
        await mail.report_bounce(ben, ben.email)
    await mail.finish(batch_id, "the mail server refused the address with 550")
    marked = await me(world, ben)
    assert marked.HasField("email_bounce_time")
    assert marked.etag != ben.user.etag

    await world.assign(ben)
    await world.wait_for_notifications(ben, 4)
    assert numbers(await mail.prepare(ben, str(uuid4()))) == []
    assert await skipped(world, ben) == {"a mail server refused the address for good": 1}

    await switch_mail(world, ben, on=True)
    assert not (await me(world, ben)).HasField("email_bounce_time")
    await world.assign(ben)
    await world.wait_for_notifications(ben, 5)
    assert numbers(await mail.prepare(ben, str(uuid4()))) == [5]


async def test_nobody_else_sees_that_an_address_was_refused(
    world: NotificationWorld, mail: Mail, ben: Person
) -> None:
    await mail.report_bounce(ben, ben.email)
    found = await world.team.users.BatchGetUsers(
        BatchGetUsersRequest(ids=[ben.id]), metadata=world.owner.credentials
    )
    assert found.users[0].email == ben.email
    assert not found.users[0].HasField("email_bounce_time")


async def test_a_mail_has_the_newest_notifications_and_the_number_of_the_others(
    world: NotificationWorld, mail: Mail
) -> None:
    person = await world.member("storm")
    await world.assign(*[person] * 501)
    await world.wait_for_notifications(person, 501)
    batch_id = str(uuid4())
    for _ in range(2):
        batch = await mail.prepare(person, batch_id)
        assert numbers(batch) == list(range(402, 502))
        assert batch.more_count == 401
    assert not await mail.finish(batch_id)
    assert numbers(await mail.prepare(person, str(uuid4()))) == []


async def test_a_storm_larger_than_a_batch_is_mailed_in_several(
    world: NotificationWorld, mail: Mail, ben: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logic, "_LARGEST_BATCH", 2)
    first, second = str(uuid4()), str(uuid4())
    assert numbers(await mail.prepare(ben, first)) == [1, 2]
    assert await mail.finish(first)
    assert numbers(await mail.prepare(ben, second)) == [3]
    assert not await mail.finish(second)


async def test_a_mail_can_say_when_the_task_is_due(world: NotificationWorld, mail: Mail) -> None:
    person = await world.member("due")
    timed, dated = world.task(assignee_id=person.id), world.task(assignee_id=person.id)
    timed.due_time.FromJsonString("2026-11-30T13:00:00Z")
    dated.due_time.FromJsonString("2026-11-30T22:59:59Z")
    dated.due.date.year, dated.due.date.month, dated.due.date.day = 2026, 11, 30
    await world.emit(world.reminder(timed, 3600), world.reminder(dated, 0))
    await world.wait_for_notifications(person, 2)
    by_key = {
        item.notification.task_key: item.notification
        for item in (await mail.prepare(person, str(uuid4()))).items
    }
    assert by_key[timed.key].due_time == timed.due_time
    assert not by_key[timed.key].HasField("due_date")
    assert by_key[dated.key].due_date == dated.due.date
    assert {shown.id: shown for shown in await world.listed(person)} == {
        shown.id: shown for shown in by_key.values()
    }


async def test_removal_from_the_workspace_cancels_unsent_mail(
    world: NotificationWorld, mail: Mail, ben: Person
) -> None:
    batch_id = str(uuid4())
    assert numbers(await mail.prepare(ben, batch_id)) == [1, 2, 3]
    await world.team.remove(world.owner, world.workspace_id, ben.id)
    assert numbers(await mail.prepare(ben, batch_id)) == []
    assert numbers(await mail.prepare(ben, str(uuid4()))) == []


async def test_a_batch_of_another_user_is_empty(
    world: NotificationWorld, mail: Mail, ben: Person
) -> None:
    eve = await world.member("eve")
    await world.assign(eve)
    await world.wait_for_notifications(eve, 1)
    batch_id = str(uuid4())
    await mail.prepare(ben, batch_id)
    assert numbers(await mail.prepare(eve, batch_id)) == []


async def test_only_services_may_prepare_mail(mail: Mail, ben: Person) -> None:
    request = PrepareEmailBatchRequest(user_id=ben.id, batch_id=str(uuid4()))
    for credentials in (ben.credentials, ((SERVICE_HEADER, "guess"),), ()):
        refused = await refusal(mail.stub.PrepareEmailBatch(request, metadata=tuple(credentials)))
        assert (refused.code, refused.reason) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "NOT_FOR_CALLER",
        )
