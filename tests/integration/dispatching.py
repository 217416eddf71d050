"""NATS as the relay sets it up for the dispatcher, for tests that publish events themselves."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.platform.config import Settings
from services.platform.events.bus import Bus
from workflows.dispatcher import CONSUMER, SUBJECTS


@asynccontextmanager
async def dispatcher_bus(settings: Settings) -> AsyncIterator[Bus]:
    """A connection, with the event stream and the dispatcher's consumer."""
    bus = Bus(settings, name="test")
    await bus.connect()
    await bus.ensure_stream()
    await bus.add_durable(CONSUMER, SUBJECTS, 0)
    yield bus
    await bus.close()
