"""Promises of NotificationService's unary calls: ownership, order, and marking as read."""

from collections.abc import AsyncIterator
from uuid import UUID

import grpc
import pytest
from sqlalchemy import bindparam, select

from services.notification.inbox.models import notifications
from services.platform.config import Settings
from services.platform.data.db import Statement
from taskflow.auth.v1.auth_service_pb2 import LogoutRequest
from taskflow.auth.v1.workspace_pb2 import ROLE_MEMBER
from taskflow.notification.v1.notification_pb2 import Notification, NotificationChange
from taskflow.notification.v1.notification_service_pb2 import (
    GetUnreadCountRequest,
    ListNotificationsRequest,
    MarkReadRequest,
)
from tests.integration.notification_world import (
    NotificationWorld,
    a_notification_world,
    eventually,
    next_change,
)
from tests.integration.people import Person, database, refusal

_SEQUENCES = Statement(
    select(notifications.c.sequence).where(notifications.c.user_id == bindparam("user_id"))
)


@pytest.fixture(scope="module")
async def world(settings: Settings) -> AsyncIterator[NotificationWorld]:
    async with a_notification_world(settings) as made:
        yield made


@pytest.fixture
async def ben(world: NotificationWorld) -> Person:
    return await world.member("ben")


async def unread(world: NotificationWorld, person: Person) -> int:
    answer = await world.stub.GetUnreadCount(GetUnreadCountRequest(), metadata=person.credentials)
    return int(answer.unread_count)


async def test_an_assignment_becomes_a_notification_of_the_assignee_alone(
    world: NotificationWorld, ben: Person
) -> None:
    task = world.task(assignee_id=ben.id, title="Water the plants")
    await world.emit(world.created(task))
    [told] = await world.wait_for_notifications(ben, 1)
    assert told.headline == f"{task.key} was assigned to you"
    assert (told.task_id, told.task_key, told.task_title) == (task.id, task.key, task.title)
    assert (told.workspace_id, told.actor_id) == (world.workspace_id, world.owner.id)
    assert told.sequence == 1
    assert told.HasField("create_time")
    assert not told.HasField("read_time")
    assert task.id not in {one.task_id for one in await world.listed(world.owner)}


async def test_notifications_are_listed_newest_first_without_repeats_or_gaps_between_pages(
    world: NotificationWorld, ben: Person
) -> None:
    await world.assign(*[ben] * 7)
    everything = await world.wait_for_notifications(ben, 7)
    assert [one.sequence for one in everything] == [7, 6, 5, 4, 3, 2, 1]
    paged: list[Notification] = []
    token = ""
    while True:
        page = await world.page(ben, page_size=3, page_token=token)
        if not token:
            # This notification arrives between two pages, and appears on no later page.
            await world.assign(ben)
            await world.wait_for_notifications(ben, 8)
        paged += page.notifications
        token = page.next_page_token
        if not token:
            break
    assert paged == everything


async def test_a_page_token_is_refused_for_another_user_or_filter(
    world: NotificationWorld, ben: Person
) -> None:
    await world.assign(ben, ben)
    await world.wait_for_notifications(ben, 2)
    token = (await world.page(ben, page_size=1)).next_page_token
    other = await world.member("eve")
    for caller, request in (
        (other, ListNotificationsRequest(page_token=token)),
        (ben, ListNotificationsRequest(page_token=token, unread_only=True)),
        (ben, ListNotificationsRequest(page_token=token[:-2])),
        (ben, ListNotificationsRequest(page_token="nonsense!")),
    ):
        refused = await refusal(world.stub.ListNotifications(request, metadata=caller.credentials))
        assert (refused.code, refused.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_PAGE_TOKEN",
        )


async def test_reading_counts_once_and_leaves_others_notifications_alone(
    world: NotificationWorld, ben: Person
) -> None:
    eve = await world.member("eve")
    await world.assign(ben, ben, ben, eve)
    mine = [one.id for one in await world.wait_for_notifications(ben, 3)]
    [hers] = [one.id for one in await world.wait_for_notifications(eve, 1)]
    assert await unread(world, ben) == 3
    assert await world.mark_read(ben, mine[0], mine[0], mine[1], hers) == 2
    assert await world.mark_read(ben, mine[0]) == 0
    assert await unread(world, ben) == 1
    assert await unread(world, eve) == 1
    left = await world.page(ben, unread_only=True)
    assert [one.id for one in left.notifications] == [mine[2]]
    assert [one.HasField("read_time") for one in await world.listed(ben)] == [True, True, False]


async def test_marking_all_as_read_stops_at_the_given_sequence(
    world: NotificationWorld, ben: Person
) -> None:
    await world.assign(ben, ben, ben)
    newest_first = await world.wait_for_notifications(ben, 3)
    assert await world.mark_all_read(ben, newest_first[1].sequence) == 2
    assert [one.HasField("read_time") for one in await world.listed(ben)] == [False, True, True]
    assert await world.mark_all_read(ben) == 1
    assert await unread(world, ben) == 0


async def test_marking_all_as_read_works_without_notifications(
    world: NotificationWorld, ben: Person
) -> None:
    assert await world.mark_all_read(ben) == 0
    assert await world.mark_read(ben, "018f0000-0000-7000-8000-000000000000") == 0
    assert await world.listed(ben) == []


async def test_marking_a_read_notification_as_read_adds_no_change(
    world: NotificationWorld, ben: Person
) -> None:
    await world.assign(ben)
    [told] = await world.wait_for_notifications(ben, 1)
    await world.mark_read(ben, told.id)
    before = (await world.page(ben)).cursor
    await world.mark_read(ben, told.id)
    await world.mark_all_read(ben)
    assert (await world.page(ben)).cursor == before


async def test_marking_up_to_a_future_sequence_does_not_mark_later_notifications(
    world: NotificationWorld, ben: Person
) -> None:
    await world.assign(ben)
    await world.wait_for_notifications(ben, 1)
    cursor = (await world.page(ben)).cursor
    await world.mark_all_read(ben, 1_000_000)
    call = world.watch(ben, cursor)
    change = (await next_change(call)).change
    call.cancel()
    assert change.all_read.up_to_sequence == 1
    await world.assign(ben)
    newest, _ = await world.wait_for_notifications(ben, 2)
    assert not newest.HasField("read_time")


async def test_malformed_requests_are_refused_with_the_field_name(
    world: NotificationWorld, ben: Person
) -> None:
    for request in (MarkReadRequest(), MarkReadRequest(ids=["x"])):
        refused = await refusal(world.stub.MarkRead(request, metadata=ben.credentials))
        assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
        assert refused.fields
    refused = await refusal(
        world.stub.ListNotifications(
            ListNotificationsRequest(page_size=-1), metadata=ben.credentials
        )
    )
    assert refused.code == grpc.StatusCode.INVALID_ARGUMENT


async def test_without_a_live_session_nothing_is_shown_or_changed(
    world: NotificationWorld, ben: Person
) -> None:
    await world.assign(ben)
    [told] = await world.wait_for_notifications(ben, 1)
    again = await world.team.login(ben.email)
    await world.team.auth.Logout(LogoutRequest(), metadata=again.credentials)
    stub, credentials = world.stub, again.credentials
    calls = (
        stub.ListNotifications(ListNotificationsRequest(), metadata=credentials),
        stub.GetUnreadCount(GetUnreadCountRequest(), metadata=credentials),
        stub.MarkRead(MarkReadRequest(ids=[told.id]), metadata=credentials),
        world.watch(again).read(),
    )
    for call in calls:
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "SESSION_REVOKED",
        )
    assert await unread(world, ben) == 1


async def test_a_removal_takes_away_the_workspaces_notifications_for_good(
    world: NotificationWorld, ben: Person, settings: Settings
) -> None:
    start = (await world.page(ben)).cursor
    await world.assign(ben, ben)
    await world.wait_for_notifications(ben, 2)
    await world.team.remove(world.owner, world.workspace_id, ben.id)
    assert await world.listed(ben) == []
    assert await unread(world, ben) == 0
    await world.team.add(world.owner, world.workspace_id, ben.email, ROLE_MEMBER)
    assert await world.listed(ben) == []
    assert await unread(world, ben) == 0
    await world.assign(ben)
    [new] = await world.wait_for_notifications(ben, 1)
    async with database(settings) as db:

        async def deleted() -> bool:
            async with db.read() as tx:
                rows = await tx.all(_SEQUENCES, user_id=UUID(ben.id))
            return [row.sequence for row in rows] == [new.sequence]

        await eventually(deleted)
    # A stream that resumes from before the removal shows no title of then.
    stream = world.watch(ben, start)
    shown: list[NotificationChange] = []
    while not shown or shown[-1].sequence < new.sequence:
        shown.append((await next_change(stream)).change)
    stream.cancel()
    assert [change.created.task_id for change in shown if change.HasField("created")] == [
        new.task_id
    ]
    assert [change.sequence for change in shown] == list(range(1, len(shown) + 1))
