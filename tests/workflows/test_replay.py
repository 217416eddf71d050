"""Replays recorded histories: runs that an earlier version started continue under this one.

A failure means that a change would break running workflows. Keep the old path next to the new one with
`workflow.patched`, and only then record again (`--record-histories`).
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner
from temporalio.workflow import NondeterminismError

from services.platform.config import Settings
from workflows.contract import MAIL_QUEUE, TASK_QUEUE, WORK_QUEUE
from workflows.jobs.contract import JobAttempt
from workflows.registry import FEATURES
from workflows.service_stubs import ServiceStubs

DEFINITIONS = [feature.definition for feature in FEATURES]
HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


def history(path: Path) -> WorkflowHistory:
    content = json.loads(path.read_text())
    return WorkflowHistory.from_json(content["workflowId"], content)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_every_recorded_run_replays(path: Path) -> None:
    await Replayer(workflows=DEFINITIONS).replay_workflow(history(path))


async def test_every_recorded_activity_is_registered_on_its_queue() -> None:
    stubs = ServiceStubs(Settings())
    registered = set()
    for feature in FEATURES:
        activities = feature.build_activities(Settings(), stubs)
        for queue, methods in (
            (TASK_QUEUE, activities.quick),
            (WORK_QUEUE, activities.slow),
            (MAIL_QUEUE, activities.mail),
        ):
            registered |= {
                (queue, getattr(each, "__temporal_activity_definition").name) for each in methods
            }
        if activities.close is not None:
            await activities.close()
    await stubs.close()
    scheduled = set()
    for path in HISTORIES:
        for event in json.loads(path.read_text())["events"]:
            if activity := event.get("activityTaskScheduledEventAttributes"):
                scheduled.add((activity["taskQueue"]["name"], activity["activityType"]["name"]))
    assert scheduled <= registered


def test_every_definition_has_recorded_runs() -> None:
    recorded = set()
    for path in HISTORIES:
        event = json.loads(path.read_text())["events"][0]
        recorded.add(event["workflowExecutionStartedEventAttributes"]["workflowType"]["name"])
    assert recorded == {definition.__name__ for definition in DEFINITIONS}


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_no_recorded_run_names_a_machine(path: Path) -> None:
    text = path.read_text()
    assert "@" not in text.replace("@type", "")
    assert ".py" not in text


@workflow.defn(name="ProcessJob")
class ChangedJob:
    """A careless edit: a pause before the first activity."""

    @workflow.run
    async def run(self, job: JobAttempt) -> None:
        await workflow.sleep(timedelta(seconds=1))


async def test_a_changed_definition_is_noticed() -> None:
    path = next(path for path in HISTORIES if path.stem == "job_done")
    replayer = Replayer(workflows=[ChangedJob], workflow_runner=UnsandboxedWorkflowRunner())
    with pytest.raises(NondeterminismError):
        await replayer.replay_workflow(history(path))
