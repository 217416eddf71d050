"""The two statements that create tasks, for any number of them at once. `n` numbers the input rows."""

from sqlalchemy import (
    Integer,
    LargeBinary,
    SmallInteger,
    Text,
    Uuid,
    and_,
    cast,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert as insert_or

from services.platform import directory, idempotency
from services.platform.db import Statement
from services.platform.directory import members, users, workspaces
from services.platform.given import given
from services.platform.tables import idempotency_keys, outbox
from services.task.models import projects, tasks
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest

METHOD = CreateTaskRequest.DESCRIPTOR.full_name

_EVENT = ("event_id", "subject", "payload")


# Where tasks are to be created, what the callers may do there, and the zones of whom dates are due for.

_asked = given(
    {
        "n": Integer(),
        "project_id": Uuid(),
        "caller_id": Uuid(),
        "session_id": Uuid(),
        "needs": SmallInteger(),
        "assignee_id": Uuid(),
        "parent_id": Uuid(),
        "request_id": Uuid(),
    }
)
_assignees = members.alias("assignees")
_assignee_fits = or_(
    _asked.c.assignee_id.is_(None),
    exists().where(
        _assignees.c.workspace_id == projects.c.workspace_id,
        _assignees.c.user_id == _asked.c.assignee_id,
    ),
)
_parent_fits = or_(
    _asked.c.parent_id.is_(None),
    exists().where(
        tasks.c.id == _asked.c.parent_id,
        tasks.c.project_id == projects.c.id,
        tasks.c.deleted_at.is_(None),
    ),
)
_found = (
    select(
        _asked.c.n,
        projects.c.id,
        projects.c.workspace_id,
        projects.c.key,
        projects.c.archived_at,
        members.c.role,
        select(users.c.time_zone)
        .where(users.c.id == func.coalesce(_asked.c.assignee_id, _asked.c.caller_id))
        .scalar_subquery()
        .label("time_zone"),
        _assignee_fits.label("assignee_fits"),
        _parent_fits.label("parent_fits"),
        select(workspaces.c.ai_enabled)
        .where(workspaces.c.id == projects.c.workspace_id)
        .scalar_subquery()
        .label("ai_enabled"),
        idempotency_keys.c.request_hash,
        idempotency_keys.c.response,
        _asked.c.needs,
    )
    .select_from(_asked)
    .join(projects, projects.c.id == _asked.c.project_id)
    .join(
        members,
        directory.membership(
            projects.c.workspace_id, caller_id=_asked.c.caller_id, session_id=_asked.c.session_id
        ),
    )
    .outerjoin(
        idempotency_keys,
        and_(
            idempotency_keys.c.caller == cast(_asked.c.caller_id, Text),
            idempotency_keys.c.method == literal(METHOD, Text),
            idempotency_keys.c.request_id == _asked.c.request_id,
            idempotency.fresh(),
        ),
    )
)
# What stands against creating each, as it is now. Rows: `n` and the columns above.
FIND_PLACES = Statement(_found)

_there = _found.cte("there")
_place = select(
    _there,
    and_(
        _there.c.archived_at.is_(None),
        _there.c.role >= _there.c.needs,
        _there.c.assignee_fits,
        _there.c.parent_fits,
        _there.c.response.is_(None),
    ).label("fits"),
).cte("place")
_wanted = (
    select(_place.c.id, func.count().label("count"))
    .where(_place.c.fits)
    .group_by(_place.c.id)
    .cte("wanted")
)
# In the order of ids, or two of these could wait for each other.
_locked = (
    select(projects.c.id)
    .where(projects.c.id.in_(select(_wanted.c.id)))
    .order_by(projects.c.id)
    .with_for_update(key_share=True)
    .cte("locked")
)
# Number of the next task. A counter that fell behind its tasks, as it could in a crash, catches up with them.
_next = func.greatest(
    projects.c.next_number,
    select(func.max(tasks.c.number) + 1)
    .where(tasks.c.project_id == projects.c.id)
    .scalar_subquery(),
)
_taken = (
    update(projects)
    .where(
        projects.c.id == _locked.c.id,
        _wanted.c.id == _locked.c.id,
        projects.c.archived_at.is_(None),
    )
    .values(next_number=_next + _wanted.c.count)
    .returning(projects.c.id, (projects.c.next_number - _wanted.c.count).label("first"))
    .cte("taken")
)
# As FIND_PLACES, and takes a number for each task that may be created; `number` is null for the others. A number that
# isn't used is left out.
#
# All creates in a project meet at its counter, so this statement doesn't wait for the disk (synchronous_commit off). A
# crash of Postgres can therefore take numbers back after this process was told of them, and give them out again. Two
# rules keep a lost number from being used:
# - Run ADD_TASKS on the same connection. It ends with the crash, and the number with it. Without a crash, the commit of
#   ADD_TASKS flushes this one before itself.
# - Never run this in a transaction with another statement, whose commit wouldn't be flushed either.
TAKE_PLACES = Statement(
    select(
        _place,
        (
            _taken.c.first
            + func.row_number().over(partition_by=(_place.c.id, _place.c.fits), order_by=_place.c.n)
            - 1
        ).label("number"),
        func.set_config("synchronous_commit", "off", true()),
    ).select_from(_place.outerjoin(_taken, and_(_taken.c.id == _place.c.id, _place.c.fits)))
)


# The tasks with their events and first answers.

_new = given(
    {
        "n": Integer(),
        **{found.name: found.type for found in tasks.c},
        **{f"outbox_{name}": outbox.c[name].type for name in _EVENT},
        "request_id": Uuid(),
        "request_hash": LargeBinary(),
        "response": LargeBinary(),
    }
)

_open_project = (
    select(_new.c.n)
    .join(projects, projects.c.id == _new.c.project_id)
    .where(projects.c.archived_at.is_(None))
    .with_for_update(of=projects, read=True, key_share=True)
    .cte("open_project")
)
# Not one that is being removed: all that are created in this run would wait for that.
_member = (
    select(_new.c.n)
    .join(
        members,
        and_(
            members.c.workspace_id == _new.c.workspace_id, members.c.user_id == _new.c.assignee_id
        ),
    )
    .with_for_update(of=members, read=True, key_share=True, skip_locked=True)
    .cte("member")
)
_fitting = (
    select(_new)
    .join(_open_project, _open_project.c.n == _new.c.n)
    .outerjoin(_member, _member.c.n == _new.c.n)
    .where(or_(_new.c.assignee_id.is_(None), _member.c.n.is_not(None)))
    .cte("fitting")
)
_fresh = insert_or(idempotency_keys).from_select(
    ["caller", "method", "request_id", "request_hash", "response"],
    select(
        cast(_fitting.c.creator_id, Text),
        literal(METHOD, Text),
        _fitting.c.request_id,
        _fitting.c.request_hash,
        _fitting.c.response,
    )
    .where(_fitting.c.request_id.is_not(None))
    # As with the projects.
    .order_by(_fitting.c.creator_id, _fitting.c.request_id),
)
_claimed = (
    idempotency.take_over(_fresh)
    .returning(idempotency_keys.c.caller, idempotency_keys.c.request_id)
    .cte("claimed")
)
_first = (
    select(_fitting)
    .outerjoin(
        _claimed,
        and_(
            _claimed.c.request_id == _fitting.c.request_id,
            _claimed.c.caller == cast(_fitting.c.creator_id, Text),
        ),
    )
    .where(or_(_fitting.c.request_id.is_(None), _claimed.c.request_id.is_not(None)))
    .cte("first")
)
_added = (
    insert(tasks)
    .from_select(
        [found.name for found in tasks.c], select(*(_first.c[found.name] for found in tasks.c))
    )
    .returning(tasks.c.id)
    .cte("added")
)
_events = (
    insert(outbox)
    .from_select(list(_EVENT), select(*(_first.c[f"outbox_{name}"] for name in _EVENT)))
    .cte("events")
)
# Adds those of which the project isn't archived, the assignee is a member and the request_id is new, and returns their
# ids. One statement, so that it can be a transaction by itself.
ADD_TASKS = Statement(select(_added.c.id).add_cte(_events))
