"""A run's history, and waits that end before it gets too long.

Temporal lets a run have 10,000 signals and 51,200 events. A definition that is signalled for each event continues as a
new run far below that, also while it waits.

All signals here mean "look again". At the limit Temporal refuses them, and the dispatcher takes a refused one for
accepted. So a run with more than HISTORY_LIMIT events must not end: it continues as a new run, which looks again.
"""

import asyncio
from typing import Any, Final

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    import workflows.contracts as contracts

# Patch ids: an earlier version of the definitions did neither.
_WHILE_WAITING: Final = "continue-while-waiting"
_AT_THE_END: Final = "continue-at-the-end"


def too_long() -> bool:
    return workflow.info().get_current_history_length() > contracts.HISTORY_LIMIT


def may_end() -> bool:
    """Ask this last, when nothing is left to do. False: continue as a new run instead, which looks again."""
    return not (too_long() and workflow.patched(_AT_THE_END))


async def finished(work: asyncio.Future[Any]) -> bool:
    """Waits for a timer, an activity or a task. False when it isn't done yet: continue as a new run now."""
    await workflow.wait_condition(lambda: work.done() or too_long())
    if not work.done() and not workflow.patched(_WHILE_WAITING):
        # An earlier version began this run and went on waiting at this length.
        await workflow.wait_condition(work.done)
    return work.done()
