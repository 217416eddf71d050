"""Reads domain events from JetStream, and starts or signals the workflows that the features register for them.

Workflow ids are deterministic and effects idempotent, so an event may come twice. Events of one aggregate are
dispatched in order, other events concurrently. An event is acknowledged once Temporal has accepted its starts; while
Temporal is away, events wait in JetStream. Workspaces take turns, here (events/turns.py) and in Temporal.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Final

import structlog
from google.protobuf.message import DecodeError, Message
from nats.aio.msg import Msg
from temporalio.client import Client
from temporalio.common import Priority, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from services.platform.config import Settings
from services.platform.events.bus import Bus
from services.platform.events.consumer import DurableConsumer, PoisonEvent
from services.platform.events.subjects import DISPATCHER, event_id
from services.platform.events.types import subjects
from services.platform.observe import tracing
from taskflow.event.v1.dead_letter_service_pb2 import ParkEventRequest
from taskflow.event.v1.event_pb2 import Event
from workflows.contract import TASK_QUEUE
from workflows.feature import Start
from workflows.registry import FEATURES
from workflows.service_stubs import ServiceStubs

log = structlog.get_logger()

CONSUMER: Final = DISPATCHER
SUBJECTS: Final = subjects(
    *dict.fromkeys(facts for feature in FEATURES for facts in feature.starts)
)

# Events of a batch.
_BATCH: Final = 64
# Events read ahead: as many as Temporal's development server accepts in 40 s. An event of another workspace waits for
# a batch or two, not for these.
_READ_AHEAD: Final = 8_000
# Aggregates dispatched concurrently. With 4 starts under way Temporal's development server accepts 200 a second. More
# starts delay the runs that it has already: with 16, a run that waited its turn took three times as long.
_CONCURRENCY: Final = 4
# Seconds between tries while Temporal is away: the first pause, and the longest.
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
_RPC_TIMEOUT: Final = timedelta(seconds=5)
# Status codes by which Temporal rejects the request itself, so that a retry would fail too. All other codes can be
# temporary, even a missing namespace or permission.
_BAD_REQUEST: Final = frozenset({RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.OUT_OF_RANGE})
# Part of the message when Temporal refuses a signal to a run that has had 10,000, under INVALID_ARGUMENT.
_SIGNAL_LIMIT: Final = "exceeded workflow execution limit for signal events"
# Longest error text (characters) that ParkEventRequest accepts.
_MAX_ERROR: Final = 1000


class Dispatcher:
    def __init__(self, settings: Settings, bus: Bus, temporal: Client, stubs: ServiceStubs) -> None:
        self._settings = settings
        self._bus = bus
        self._temporal = temporal
        self._stubs = stubs
        self._slots = asyncio.Semaphore(_CONCURRENCY)

    async def run(self) -> None:
        """Runs until cancelled."""
        await DurableConsumer(
            self._bus,
            CONSUMER,
            SUBJECTS,
            self.handle,
            self.park,
            size=_BATCH,
            read_ahead=_READ_AHEAD,
        ).run()

    async def handle(self, batch: list[Msg]) -> None:
        """Dispatches a batch. If one event can't be read, raises PoisonEvent before it starts any workflow."""
        by_aggregate: dict[str, list[Event]] = {}
        for message in batch:
            event = read(message.data)
            by_aggregate.setdefault(event.aggregate_id, []).append(event)
        signalled: set[str] = set()
        results = await asyncio.gather(
            *(self._dispatch(events, signalled) for events in by_aggregate.values()),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def park(self, message: Msg, error: str) -> None:
        """Stores an event as a dead letter."""
        await self._stubs.dead_letters.ParkEvent(
            ParkEventRequest(
                consumer=CONSUMER,
                subject=message.subject,
                event_id=event_id(message),
                payload=message.data,
                error=error.replace("\0", "")[:_MAX_ERROR],
            )
        )

    async def _dispatch(self, events: list[Event], signalled: set[str]) -> None:
        """Starts or signals workflows; `signalled` holds the workflow ids that need no second signal in this batch."""
        async with self._slots:
            for event in events:
                with tracing.within(event.id):
                    for start in starts(event, self._settings):
                        if start.id in signalled:
                            continue
                        if start.one_signal_per_batch:
                            signalled.add(start.id)
                        await self._start(start, turn_key(event))

    async def _start(self, start: Start, key: str) -> None:
        """`key`: Temporal gives the keys whose work waits equal shares of the worker."""

        async def request() -> None:
            with suppress(WorkflowAlreadyStartedError), _past_signal_limit(start):
                await self._temporal.start_workflow(
                    start.workflow,
                    start.argument,
                    id=start.id,
                    task_queue=TASK_QUEUE,
                    start_delay=start.delay,
                    start_signal=start.signal,
                    start_signal_args=[] if start.signal is None else [start.signal_argument],
                    id_conflict_policy=(
                        WorkflowIDConflictPolicy.TERMINATE_EXISTING
                        if start.replace_running
                        else WorkflowIDConflictPolicy.USE_EXISTING
                    ),
                    id_reuse_policy=(
                        WorkflowIDReusePolicy.ALLOW_DUPLICATE
                        if start.restart_succeeded
                        else WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY
                    ),
                    priority=Priority(fairness_key=key),
                    rpc_timeout=_RPC_TIMEOUT,
                )

        await _patiently(request)


def read(data: bytes) -> Event:
    """Parses an event. Raises PoisonEvent for invalid bytes, and without known facts or an aggregate."""
    try:
        event = Event.FromString(data)
    except DecodeError:
        raise PoisonEvent("the event can't be read") from None
    if event.WhichOneof("facts") is None or not event.aggregate_id:
        raise PoisonEvent("the event has no facts that are known here, or no aggregate")
    return event


def turn_key(event: Event) -> str:
    """Whose turn the event's work takes: its workspace's, or its aggregate's when it belongs to no workspace."""
    return event.workspace_id or event.aggregate_id


def starts(event: Event, settings: Settings) -> list[Start]:
    """The starts that all features want for an event."""
    facts = _facts(event)
    handlers = (feature.starts.get(type(facts)) for feature in FEATURES)
    return [start for handler in handlers if handler for start in handler(facts, settings)]


def _facts(event: Event) -> Message:
    name = event.WhichOneof("facts")
    assert name is not None
    facts: Message = getattr(event, name)
    return facts


@contextmanager
def _past_signal_limit(start: Start) -> Iterator[None]:
    """Ignores Temporal's refusal of a signal at the signal limit.

    That run checks for new work before it completes (history_limit.py).
    """
    try:
        yield
    except RPCError as error:
        if start.signal is None or _SIGNAL_LIMIT not in error.message:
            raise
        log.warning("signal refused at temporal's limit", workflow=start.id)


async def _patiently(request: Callable[[], Awaitable[None]]) -> None:
    """Retries the request until it succeeds. Raises PoisonEvent when the server rejects the request itself."""
    pause = _FIRST_PAUSE
    while True:
        try:
            await request()
            return
        except RPCError as error:
            if error.status in _BAD_REQUEST:
                raise PoisonEvent(f"Temporal refused it with {error.status.name}") from None
            status = error.status.name
        log.warning("dispatcher waits", answered=status)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
