"""Events that a stopping process had received are redelivered to another process at once."""

import asyncio
import time
from contextlib import suppress
from uuid import uuid4

from nats.aio.msg import Msg

from services.platform.config import Settings
from services.platform.events.bus import Bus
from services.platform.events.consumer import DurableConsumer
from services.platform.events.subjects import event_id

_EVENTS = 100
# How soon (seconds) the other process must get the events: well below the 8 s after which JetStream redelivers them
# anyway.
_SOON = 4.0


async def test_a_stopping_consumer_returns_its_unprocessed_events(settings: Settings) -> None:
    first, second = Bus(settings, name="first"), Bus(settings, name="second")
    await first.connect()
    await second.connect()
    await first.ensure_stream()
    name = f"handover-{uuid4().hex}"
    subjects = [f"taskflow.{name}.>"]
    # Publish the events as the relay does.
    await first.add_durable(name, subjects, 0)
    taken: list[str] = []
    done: set[str] = set()

    async def never(batch: list[Msg]) -> None:
        taken.extend(event_id(message) for message in batch)
        await asyncio.Event().wait()

    async def work(batch: list[Msg]) -> None:
        done.update(event_id(message) for message in batch)

    async def park(message: Msg, error: str) -> None:
        raise AssertionError(error)

    events = {str(uuid4()) for _ in range(_EVENTS)}
    for one in sorted(events):
        await first.jetstream.publish(
            f"taskflow.{name}.handover.tried", b"", headers={"Nats-Msg-Id": one}
        )
    stopping = asyncio.create_task(
        DurableConsumer(first, name, subjects, never, park, size=10).run()
    )
    async with asyncio.timeout(_SOON):
        while not taken:
            await asyncio.sleep(0.01)
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    await first.close()
    stopped = time.monotonic()
    working = asyncio.create_task(
        DurableConsumer(second, name, subjects, work, park, size=10).run()
    )
    async with asyncio.timeout(60):
        while done != events:
            await asyncio.sleep(0.01)
    assert time.monotonic() - stopped < _SOON
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    await second.jetstream.delete_consumer("TASKFLOW", name)
    await second.close()
