"""Finds ids: of workspaces by name, of projects and tasks by key, of members by e-mail."""

import asyncio
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.message import Message

from taskflow.auth.v1.workspace_pb2 import Member, Workspace
from taskflow.auth.v1.workspace_service_pb2 import ListMembersRequest, ListWorkspacesRequest
from taskflow.task.v1.project_pb2 import Project
from taskflow.task.v1.project_service_pb2 import ListProjectsRequest
from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import GetTaskRequest
from taskflow_client.cli.command import Cli, Problem, missing, usage
from taskflow_client.paging import pages
from taskflow_client.session_store import config_dir, write_private

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_TASK_KEY = re.compile(r"[A-Z][A-Z0-9]{0,9}-[1-9][0-9]{0,17}")
_PAGE = 500
# Concurrent GetTask calls.
_AT_ONCE = 16


def is_id(text: str) -> bool:
    return _UUID.fullmatch(text) is not None


async def everything(
    method: Callable[[Any], Any], request: Message, field: str, limit: int = 0
) -> list[Any]:
    """Returns the items of all pages of a List method. `limit` is the most items; 0 means no limit."""
    first: Any = request
    first.page_size = min(limit, _PAGE) if limit else _PAGE
    items: list[Any] = []
    async for page in pages(method, request):
        items += getattr(page, field)
        if limit and len(items) >= limit:
            return items[:limit]
    return items


async def workspaces(cli: Cli) -> list[Workspace]:
    listing = cli.client.workspaces.ListWorkspaces
    return await everything(listing, ListWorkspacesRequest(), "workspaces")


async def workspace_named(cli: Cli, name: str) -> Workspace:
    """Returns the caller's workspace with this id or name."""
    mine = await workspaces(cli)
    found = [each for each in mine if each.id == name.lower()] or [
        each for each in mine if each.display_name.casefold() == name.casefold()
    ]
    if not found:
        raise missing(f"you aren't in a workspace {name!r}", "see `taskflow workspace list`")
    if len(found) > 1:
        raise usage(
            f"{len(found)} workspaces are called {name!r}", "use the id instead of the name"
        )
    return found[0]


async def workspace_id(cli: Cli) -> str:
    """Returns the id of the chosen workspace, else of the default, else of the only one."""
    if wanted := cli.options.workspace:
        return wanted if is_id(wanted) else (await workspace_named(cli, wanted)).id
    if chosen := default_workspace(cli):
        return chosen
    mine = await workspaces(cli)
    if not mine:
        hint = "create one with `taskflow workspace create NAME`"
        raise Problem("you aren't in any workspace yet", hint, 5)
    if len(mine) > 1:
        hint = "choose one with --workspace, or a default with `taskflow workspace use`"
        raise usage("you are in several workspaces", hint)
    return mine[0].id


def default_workspace(cli: Cli) -> str:
    session = cli.client.session
    chosen = _load_defaults().get(_account(cli), "") if session else ""
    return chosen if isinstance(chosen, str) else ""


def set_default_workspace(cli: Cli, chosen: str) -> None:
    defaults = _load_defaults() | {_account(cli): chosen}
    write_private(config_dir() / "workspaces.json", json.dumps(defaults, indent=2))


def _account(cli: Cli) -> str:
    session = cli.client.session
    return f"{session.user_id}@{cli.client.server}" if session else ""


def _load_defaults() -> dict[str, Any]:
    try:
        defaults = json.loads((config_dir() / "workspaces.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return defaults if isinstance(defaults, dict) else {}


async def projects(cli: Cli, workspace: str, archived: bool = True) -> list[Project]:
    request = ListProjectsRequest(workspace_id=workspace, include_archived=archived)
    return await everything(cli.client.projects.ListProjects, request, "projects")


async def project_id(cli: Cli, key: str) -> str:
    """Returns the id of the project with this key or id; an empty key means the only project."""
    if is_id(key):
        return key
    there = await projects(cli, await workspace_id(cli), archived=bool(key))
    found = [each for each in there if not key or each.key == key.upper()]
    if not found and not key:
        hint = "create one with `taskflow project create KEY NAME`"
        raise Problem("the workspace has no open project", hint, 5)
    if not found:
        raise missing(f"no project {key!r} in this workspace", "see `taskflow project list`")
    if len(found) > 1:
        raise usage("the workspace has several projects", "choose one with --project KEY")
    return found[0].id


async def task(cli: Cli, reference: str) -> Task:
    """Returns the task with this key (OPS-12) or id."""
    if is_id(reference):
        return (await cli.client.tasks.GetTask(GetTaskRequest(id=reference))).task
    key = reference.upper()
    if not _TASK_KEY.fullmatch(key):
        raise usage(f"{reference!r} isn't a task", "write its key, such as OPS-12, or its id")
    request = GetTaskRequest(id=key, workspace_id=await workspace_id(cli))
    return (await cli.client.tasks.GetTask(request)).task


async def task_id(cli: Cli, reference: str) -> str:
    return reference if is_id(reference) else (await task(cli, reference)).id


async def members(cli: Cli, workspace: str) -> list[Member]:
    request = ListMembersRequest(workspace_id=workspace)
    return await everything(cli.client.workspaces.ListMembers, request, "members")


async def member_id(cli: Cli, person: str, workspace: str = "") -> str:
    """Returns the id of the member with this e-mail or id; "me" means the caller."""
    session = cli.client.session
    if person == "me" and session:
        return session.user_id
    if is_id(person):
        return person
    everyone = await members(cli, workspace or await workspace_id(cli))
    for member in everyone:
        if member.email.casefold() == person.casefold():
            return member.user_id
    hint = f"add them with `taskflow workspace add-member {person}`"
    raise missing(f"{person} isn't a member of this workspace", hint)


async def tasks_of(cli: Cli, items: Iterable[Any]) -> dict[str, Task]:
    """Returns the items' tasks by id, for table output only. Leaves out tasks that can't be read."""
    if cli.output.as_json:
        return {}
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def get(id: str) -> Task:
        async with at_once:
            return (await cli.client.tasks.GetTask(GetTaskRequest(id=id))).task

    ids = {item.task_id for item in items}
    found = await asyncio.gather(*map(get, ids), return_exceptions=True)
    return {task.id: task for task in found if isinstance(task, Task)}
