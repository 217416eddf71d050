"""Decides when a run's history is too long, so that the run must continue as new.

Temporal lets a run have 10,000 signals and 51,200 events. A workflow that gets a signal for each event continues as new
far below that, even while it waits.

All signals here mean "look again". At its limit Temporal refuses signals, and the dispatcher drops a refused one. So a
run with more than HISTORY_LIMIT events must not complete: it continues as new, and the new run looks again.
"""

import asyncio
from typing import Any, Final

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from workflows.contract import HISTORY_LIMIT

# Patch ids of two changes to this module. Runs that began before a change replay without it.
_WHILE_WAITING: Final = "continue-while-waiting"
_AT_THE_END: Final = "continue-at-the-end"


def exceeded() -> bool:
    return workflow.info().get_current_history_length() > HISTORY_LIMIT


def may_complete() -> bool:
    """Call this last, when nothing is left to do. False: continue as new instead of completing."""
    return not (exceeded() and workflow.patched(_AT_THE_END))


async def finished(work: asyncio.Future[Any]) -> bool:
    """Waits for a timer, an activity or a task. False when the history got too long first: continue as new."""
    await workflow.wait_condition(lambda: work.done() or exceeded())
    if not work.done() and not workflow.patched(_WHILE_WAITING):
        # The run began under an earlier version of this code, which kept waiting here. The replay must do the same.
        await workflow.wait_condition(work.done)
    return work.done()
