"""`python -m tests.bench.load`: one load process.

Standard input: a line of JSON with the task; then `go`, and for some tasks `stop`. Standard output: `ready` once
everything is prepared, and at the end a line of JSON with the result.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from tests.bench.load import calls, jetstream, notifications, streams, workflows
from tests.bench.load.control import Control

KINDS: dict[str, Callable[[Any, Control], Awaitable[dict[str, Any]]]] = {
    "calls": calls.run,
    "watch": streams.watch,
    "hold": streams.hold,
    "inbox": notifications.inbox,
    "author": notifications.author,
    "messages": jetstream.messages,
    "publish": jetstream.publish,
    "workflows": workflows.run,
}


async def main() -> None:
    control = await Control.on_stdin()
    spec = json.loads(await control.line())
    found = await KINDS[spec["kind"]](spec, control)
    print(json.dumps(found), flush=True)


# Temporal's workers import the main module again.
if __name__ == "__main__":
    try:
        asyncio.run(main())
    except EOFError:
        # The runner has ended, so this load process ends without a result.
        sys.exit(1)
