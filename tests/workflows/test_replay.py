"""Recorded histories: runs that were begun by an earlier version go on under this one.

When one fails, the change of the definition would break running workflows: keep the old way beside the new one with
`workflow.patched`, and only then record anew (`--record-histories`).
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

from workflows.contracts import JobAttempt
from workflows.worker import DEFINITIONS

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


def history(path: Path) -> WorkflowHistory:
    content = json.loads(path.read_text())
    return WorkflowHistory.from_json(content["workflowId"], content)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_every_recorded_run_replays(path: Path) -> None:
    await Replayer(workflows=DEFINITIONS).replay_workflow(history(path))


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
    """As a careless edit would leave it: a pause before anything is done."""

    @workflow.run
    async def run(self, job: JobAttempt) -> None:
        await workflow.sleep(timedelta(seconds=1))


async def test_a_changed_definition_is_noticed() -> None:
    path = next(path for path in HISTORIES if path.stem == "job_done")
    replayer = Replayer(workflows=[ChangedJob], workflow_runner=UnsandboxedWorkflowRunner())
    with pytest.raises(NondeterminismError):
        await replayer.replay_workflow(history(path))
