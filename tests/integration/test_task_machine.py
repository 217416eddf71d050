"""After any sequence of operations, tasks match a simple model of them."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import grpc.aio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from services.platform.config import Settings
from taskflow.task.v1 import task_pb2
from taskflow.task.v1.project_pb2 import Project
from taskflow.task.v1.task_pb2 import Task, TaskFilter
from tests.integration.people import read_refusal
from tests.integration.roles_world import People, RolesWorld, due_date, people_of, roles_world_at

_FINISHED = (task_pb2.TASK_STATUS_DONE, task_pb2.TASK_STATUS_CANCELED)


@dataclass(frozen=True)
class Model:
    """The expected state of a task."""

    title: str
    description: str = ""
    status: int = task_pb2.TASK_STATUS_TODO
    assignee: str = ""
    labels: tuple[str, ...] = ()
    day: int = 0
    deleted: bool = False
    revision: int = 1
    text_revision: int = 1

    def change(self, **fields: Any) -> "Model":
        new = replace(self, **fields)
        if new == self:
            return self
        text = (new.title, new.description) != (self.title, self.description)
        return replace(
            new, revision=self.revision + 1, text_revision=self.text_revision + int(text)
        )

    def shows(self, task: Task) -> bool:
        return (
            self
            == Model(
                title=task.title,
                description=task.description,
                status=task.status,
                assignee=task.assignee_id,
                labels=tuple(task.labels),
                day=task.due.date.day,
                deleted=task.HasField("delete_time"),
                revision=task.revision,
                text_revision=task.text_revision,
            )
            and task.HasField("finish_time") == (self.status in _FINISHED)
            and (task.HasField("due_time") == bool(self.day))
        )


_texts = st.sampled_from(["One", "Two", "Three"])
_labels = st.lists(st.sampled_from(["a", "b", "c"]), max_size=3)
_statuses = st.integers(1, 4)


class Tasks(RuleBasedStateMachine):
    """Compares every answer with the model, and at the end the lists and events too."""

    loop: asyncio.AbstractEventLoop
    world: RolesWorld

    tasks = Bundle("tasks")

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, Model] = {}
        self.etags: dict[str, str] = {}
        self.archived = False
        self.project: Project = self.wait(self.world.project())

    def wait(self, call: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(call, self.loop).result(30)

    def attempt(self, task_id: str, call: Coroutine[Any, Any, Task], **changes: Any) -> None:
        """Try a change of a live task."""
        model = self.models[task_id]
        if self.archived:
            self.refused(call, "PROJECT_ARCHIVED")
        elif model.deleted:
            self.refused(call, "TASK_DELETED")
        else:
            self.accepted(task_id, call, model.change(**changes))

    def accepted(self, task_id: str, call: Coroutine[Any, Any, Task], model: Model) -> None:
        task = self.wait(call)
        assert model.shows(task), (model, task)
        unchanged = model == self.models[task_id]
        assert (task.etag == self.etags[task_id]) == unchanged
        self.models[task_id], self.etags[task_id] = model, task.etag

    def refused(self, call: Coroutine[Any, Any, Any], reason: str) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            self.wait(call)
        assert read_refusal(caught.value).reason == reason

    @rule(target=tasks, title=_texts, labels=_labels, assigned=st.booleans(), day=st.integers(0, 3))
    def create(self, title: str, labels: list[str], assigned: bool, day: int) -> Any:
        assignee = self.world.people.owner.id if assigned else ""
        call = self.world.create(
            self.project, title=title, labels=labels, assignee_id=assignee, due=_due(day)
        )
        if self.archived:
            self.refused(call, "PROJECT_ARCHIVED")
            return None
        task = self.wait(call)
        unique = tuple(dict.fromkeys(labels))
        model = Model(title=title, labels=unique, assignee=assignee, day=day)
        assert model.shows(task)
        self.models[task.id], self.etags[task.id] = model, task.etag
        return task.id

    @rule(task_id=tasks, title=_texts, description=_texts)
    def edit(self, task_id: str | None, title: str, description: str) -> None:
        if task_id:
            call = self.world.update(Task(id=task_id), title=title, description=description)
            self.attempt(task_id, call, title=title, description=description)

    @rule(task_id=tasks, day=st.integers(0, 3), labels=_labels)
    def plan(self, task_id: str | None, day: int, labels: list[str]) -> None:
        if task_id:
            call = self.world.update(
                Task(id=task_id), "due", "labels", due=_due(day), labels=labels
            )
            self.attempt(task_id, call, day=day, labels=tuple(dict.fromkeys(labels)))

    @rule(task_id=tasks, title=_texts)
    def edit_with_a_stale_etag(self, task_id: str | None, title: str) -> None:
        if task_id:
            call = self.world.update(Task(id=task_id), title=title, etag="0")
            self.refused(call, "PROJECT_ARCHIVED" if self.archived else "ETAG_MISMATCH")

    @rule(task_id=tasks, title=_texts)
    def edit_with_the_current_etag(self, task_id: str | None, title: str) -> None:
        if task_id:
            call = self.world.update(Task(id=task_id), title=title, etag=self.etags[task_id])
            self.attempt(task_id, call, title=title)

    @rule(task_id=tasks, who=st.sampled_from(["owner", "member", "viewer", ""]))
    def assign(self, task_id: str | None, who: str) -> None:
        if task_id:
            assignee = getattr(self.world.people, who).id if who else ""
            call = self.world.assign(Task(id=task_id), assignee)
            self.attempt(task_id, call, assignee=assignee)

    @rule(task_id=tasks)
    def assign_to_a_stranger(self, task_id: str | None) -> None:
        if task_id:
            stranger = self.world.people.stranger.id
            deleted = "TASK_DELETED" if self.models[task_id].deleted else "ASSIGNEE_NOT_MEMBER"
            self.refused(
                self.world.assign(Task(id=task_id), stranger),
                "PROJECT_ARCHIVED" if self.archived else deleted,
            )

    @rule(task_id=tasks, status=_statuses)
    def set_status(self, task_id: str | None, status: int) -> None:
        if task_id:
            self.attempt(task_id, self.world.set_status(Task(id=task_id), status), status=status)

    @rule(task_id=tasks)
    def delete(self, task_id: str | None) -> None:
        if task_id is None:
            return
        call = self.world.delete(Task(id=task_id))
        model = self.models[task_id]
        if self.archived:
            self.refused(call, "PROJECT_ARCHIVED")
        elif model.deleted:
            self.refused(call, "RESOURCE_NOT_FOUND")
        else:
            self.accepted(task_id, call, model.change(deleted=True))

    @rule(task_id=tasks)
    def undelete(self, task_id: str | None) -> None:
        if task_id is None:
            return
        call = self.world.undelete(Task(id=task_id))
        model = self.models[task_id]
        if self.archived:
            self.refused(call, "PROJECT_ARCHIVED")
        elif not model.deleted:
            self.refused(call, "TASK_NOT_DELETED")
        else:
            self.accepted(task_id, call, model.change(deleted=False))

    @rule(archived=st.booleans())
    def archive(self, archived: bool) -> None:
        world = self.world
        self.wait(world.archive(self.project) if archived else world.unarchive(self.project))
        self.archived = archived

    @invariant()
    def lists_show_live_tasks_and_deleted_ones_on_request(self) -> None:
        workspace_id = self.project.workspace_id
        everything = TaskFilter(include_deleted=True)
        found = self.wait(self.world.all(workspace_id, filter=everything))
        assert [task.id for task in found] == list(self.models)
        assert all(self.models[task.id].shows(task) for task in found)
        live = [task for task in found if not task.HasField("delete_time")]
        assert self.wait(self.world.all(workspace_id)) == live

    def teardown(self) -> None:
        for task_id, model in self.models.items():
            events = self.wait(self.world.events(task_id))
            assert [event.revision for event in events] == list(range(1, model.revision + 1))
            last = events[-1]
            assert model.shows(getattr(last, last.WhichOneof("facts")).task)


def _due(day: int) -> task_pb2.Due | None:
    return due_date(2031, 1, day) if day else None


@pytest.fixture(scope="module")
async def people(services: Settings) -> People:
    return await people_of(services)


@pytest.fixture
async def world(services: Settings, people: People) -> AsyncIterator[RolesWorld]:
    async with roles_world_at(services, people) as world:
        yield world


async def test_tasks_match_a_simple_model_after_any_sequence_of_operations(
    world: RolesWorld,
) -> None:
    class Here(Tasks):
        pass

    Here.loop, Here.world = asyncio.get_running_loop(), world
    profile = settings(max_examples=30, stateful_step_count=30, deadline=None)
    # Run Hypothesis in a thread, because its steps wait for calls on this event loop.
    await asyncio.to_thread(run_state_machine_as_test, Here, settings=profile)
