"""P8: suggestions requested for 200 tasks at once, from the first call until the last suggestion is stored.

RequestSuggestions starts the same work as a new task, through outbox, relay, JetStream, dispatcher and Temporal, but
without the debounce of two seconds.
"""

import asyncio
import time

import grpc.aio
import psycopg

from services.platform.config import Settings
from taskflow.task.v1.suggestion_service_pb2 import RequestSuggestionsRequest
from taskflow.task.v1.suggestion_service_pb2_grpc import SuggestionServiceStub
from tests.bench import dataset
from tests.bench.dataset import LARGE, WORKSPACES
from tests.bench.processes import load
from tests.bench.rows import ROUNDS, Bench, Result, compared
from tests.bench.stacks import WHOLE
from tests.conftest import superuser

_TASKS = 200
_LOOK = 0.02
_PATIENCE = 120.0


async def suggestions(bench: Bench) -> Result:
    """Measures P8: the suggestions stored per second."""
    stacks = await bench.stacks.need(small=WHOLE)
    settings = stacks["small"].settings
    [token] = bench.small.tokens(settings, [1])
    rates, floors = [], []
    for number in range(ROUNDS):
        bench.say(f"round {number + 1}: suggestions")
        rates.append(_TASKS / await _suggested(settings, token))
        # Wait a moment, because the last workflows are still completing.
        await asyncio.sleep(1)
        bench.say(f"round {number + 1}: workflows that do nothing")
        [found] = await load(
            {
                "kind": "workflows",
                "temporal": settings.temporal,
                "name": time.time_ns(),
                "count": _TASKS,
                "concurrency": settings.workflow_concurrency,
            }
        )
        floors.append(_TASKS / found["seconds"])
    return compared(rates, floors, "workflows/s", least=0.5)


async def _suggested(settings: Settings, token: str) -> float:
    """Seconds until every task has its suggestion."""
    # Tasks whose priority and text make the enricher suggest something for each.
    tasks = await dataset.execute(
        superuser(settings),
        """
        SELECT id FROM task.tasks AS asked
        WHERE workspace_id = %(workspace)s AND status = 1 AND priority = 0 AND deleted_at IS NULL
          AND NOT EXISTS (SELECT FROM task.suggestions WHERE task_id = asked.id)
        LIMIT %(count)s
        """,
        {"workspace": WORKSPACES[LARGE], "count": _TASKS},
    )
    asked = [row[0] for row in tasks]
    async with grpc.aio.insecure_channel(settings.task) as channel:
        stub = SuggestionServiceStub(channel)
        begin = time.monotonic()
        await asyncio.gather(
            *(
                stub.RequestSuggestions(
                    RequestSuggestionsRequest(task_id=str(task_id)),
                    metadata=(("authorization", f"Bearer {token}"),),
                )
                for task_id in asked
            )
        )
    async with (
        await psycopg.AsyncConnection.connect(superuser(settings), autocommit=True) as connection,
        asyncio.timeout(_PATIENCE),
    ):
        while True:
            cursor = await connection.execute(
                "SELECT count(DISTINCT task_id) FROM task.suggestions WHERE task_id = ANY(%s)",
                [asked],
            )
            row = await cursor.fetchone()
            if row is not None and row[0] == _TASKS:
                return time.monotonic() - begin
            await asyncio.sleep(_LOOK)
