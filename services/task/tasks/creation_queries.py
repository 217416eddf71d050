"""The statements that create any number of tasks at once. `n` numbers the input rows."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

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

from services.platform.data.db import Statement
from services.platform.data.input_rows import input_rows
from services.platform.data.tables import idempotency_keys, outbox
from services.platform.rpc import directory, idempotency
from services.platform.rpc.directory import members, users, workspaces
from services.task.projects.models import projects
from services.task.tasks.models import tasks
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest

METHOD = CreateTaskRequest.DESCRIPTOR.full_name

_EVENT = ("event_id", "subject", "payload")


class Checked(NamedTuple):
    """The stored state that a draft is checked against: project, caller's role, first answer.

    `time_zone` is the zone in which a date-only deadline ends.
    """

    n: int
    project_id: UUID
    workspace_id: UUID
    key: str
    archived_at: datetime | None
    role: int
    time_zone: str | None
    assignee_fits: bool
    parent_fits: bool
    ai_enabled: bool
    request_hash: bytes | None
    response: bytes | None
    needs: int


class Reserved(Checked):
    """A checked draft with the `number` reserved for its task; None if the task can't be created."""

    fits: bool
    number: int | None
    synchronous_commit: str


class Inserted(NamedTuple):
    id: UUID


# Statements that check drafts, and reserve numbers for their tasks.

_asked = input_rows(
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
_checked = (
    select(
        _asked.c.n,
        projects.c.id.label("project_id"),
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
CHECK_DRAFTS = Statement(_checked, row=Checked)

_current = _checked.cte("there")
_draft = select(
    _current,
    and_(
        _current.c.archived_at.is_(None),
        _current.c.role >= _current.c.needs,
        _current.c.assignee_fits,
        _current.c.parent_fits,
        _current.c.response.is_(None),
    ).label("fits"),
).cte("place")
_wanted = (
    select(_draft.c.project_id, func.count().label("count"))
    .where(_draft.c.fits)
    .group_by(_draft.c.project_id)
    .cte("wanted")
)
# Locks the projects in the order of their ids: two batches with different orders could deadlock.
_locked = (
    select(projects.c.id)
    .where(projects.c.id.in_(select(_wanted.c.project_id)))
    .order_by(projects.c.id)
    .with_for_update(key_share=True)
    .cte("locked")
)
# The next task's number. A crash of Postgres can set the counter back; it then continues after the highest number.
_next = func.greatest(
    projects.c.next_number,
    select(func.max(tasks.c.number) + 1)
    .where(tasks.c.project_id == projects.c.id)
    .scalar_subquery(),
)
_reserved = (
    update(projects)
    .where(
        projects.c.id == _locked.c.id,
        _wanted.c.project_id == _locked.c.id,
        projects.c.archived_at.is_(None),
    )
    .values(next_number=_next + _wanted.c.count)
    .returning(projects.c.id, (projects.c.next_number - _wanted.c.count).label("first"))
    .cte("taken")
)
# Checks drafts as CHECK_DRAFTS does, and reserves a number for each task that can be created. A reserved number that
# no task gets stays unused.
#
# All creates in a project update its counter, so this statement doesn't wait for the disk (synchronous_commit off). A
# crash of Postgres can therefore undo reservations that this process has seen, and reserve the numbers again. Two rules
# prevent that a task gets such a number:
# - Run INSERT_TASKS on the same connection: a crash closes it, so no task gets the lost number. Without a crash, the
#   commit of INSERT_TASKS writes the reservation to disk first.
# - Never run this statement in a transaction with others: their commit wouldn't wait for the disk either.
RESERVE_NUMBERS = Statement(
    select(
        _draft,
        (
            _reserved.c.first
            + func.row_number().over(
                partition_by=(_draft.c.project_id, _draft.c.fits), order_by=_draft.c.n
            )
            - 1
        ).label("number"),
        func.set_config("synchronous_commit", "off", true()).label("synchronous_commit"),
    ).select_from(
        _draft.outerjoin(_reserved, and_(_reserved.c.id == _draft.c.project_id, _draft.c.fits))
    ),
    row=Reserved,
)


# The statement that inserts tasks, with their events and the answers to their requests.

_new = input_rows(
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
# Assignees' memberships. Skips a membership that is being removed, because the whole batch would wait for the removal.
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
    # Inserts in a fixed order, so that batches don't deadlock.
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
# Inserts each task whose project isn't archived, whose assignee is a member, and whose request_id is new. Returns the
# ids of the inserted tasks. It is one statement, so that it is a transaction by itself.
INSERT_TASKS = Statement(select(_added.c.id).add_cte(_events), row=Inserted)
