"""What each workflow feature exports for the worker and the dispatcher; registry.py lists the features."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from google.protobuf.message import Message

from services.platform.config import Settings
from workflows.service_stubs import ServiceStubs


@dataclass(frozen=True)
class Start:
    """Starts a workflow unless it runs already, and signals it in either case if there is a signal.

    A signal only means "look again". A run at Temporal's limit of signals looks again before it ends, see
    history_limit.py, so the dispatcher may drop a signal to it.
    """

    workflow: Callable[..., Awaitable[Any]]
    argument: object
    id: str
    signal: str | None = None
    signal_argument: object = None
    # All events of a batch together send the workflow one signal.
    one_signal_per_batch: bool = False
    delay: timedelta | None = None
    # Start a new run even if an earlier run of this id has succeeded.
    restart_succeeded: bool = True
    # Terminate the running workflow of this id, and start a new run.
    replace_running: bool = False


@dataclass(frozen=True)
class Activities:
    """Activity methods, by the queue that the workflow schedules them on."""

    # Activities on contract.TASK_QUEUE, which answer at once.
    quick: Sequence[Callable[..., Any]]
    # contract.WORK_QUEUE
    slow: Sequence[Callable[..., Any]] = ()
    # Activities on contract.MAIL_QUEUE.
    mail: Sequence[Callable[..., Any]] = ()
    # Releases what the activities hold, when the process ends.
    close: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True)
class Feature:
    """One workflow feature. Its event handlers are keyed by the class of the event's facts, and receive the facts."""

    definition: type
    build_activities: Callable[[Settings, ServiceStubs], Activities]
    # Must be deterministic: an event that comes twice asks for the same starts.
    starts: Mapping[type[Message], Callable[[Any, Settings], list[Start]]]
