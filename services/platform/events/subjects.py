"""Names on NATS: the event stream, and the subjects and streams that belong to one consumer."""

import re
from collections.abc import Sequence

from nats.aio.msg import Msg

STREAM = "TASKFLOW"
# The durable consumer that starts workflows (workflows/dispatcher.py).
DISPATCHER = "dispatcher"
# Subjects `taskflow._.replay.<consumer>.<event id>` carry events that are published again for one consumer.
_REPLAY = "taskflow._.replay"
# Subjects `copies.<consumer>.<event id>` carry copies of events that a consumer missed in the event stream.
_COPIES = "copies"


def replay_subject(consumer: str, event_id: str) -> str:
    """The subject on which an event is published again for one consumer. Filters for workspaces don't match it."""
    return f"{_REPLAY}.{consumer}.{event_id}"


def copy_subject(consumer: str, event_id: str) -> str:
    """The subject on which the relay publishes a copy of an event that the consumer missed in the event stream."""
    return f"{_COPIES}.{consumer}.{event_id}"


def copies_stream(consumer: str) -> str:
    """The name of the stream that holds copies of the events that the consumer missed."""
    return f"{STREAM}-{consumer}"


def replayed_event_id(subject: str) -> str:
    """The event's id in the subject of a replay; empty for other subjects."""
    return subject.rpartition(".")[2] if subject.startswith(f"{_REPLAY}.") else ""


def event_id(message: Msg) -> str:
    """The id of the event that a message carries, whether it is the original, a replay or a copy."""
    if message.subject.startswith((f"{_REPLAY}.", f"{_COPIES}.")):
        return message.subject.rpartition(".")[2]
    return (message.headers or {}).get("Nats-Msg-Id", "")


def workspace_of(subject: str) -> str:
    """The workspace in an event's subject, `_` for none."""
    return subject.split(".", 2)[1]


def pattern(filters: Sequence[str]) -> str:
    """A regular expression, for Postgres and Python, for the subjects that at least one of the NATS filters matches."""
    parts = (re.escape(each).replace(r"\*", "[^.]+").replace(">", ".+") for each in filters)
    return f"^({'|'.join(parts)})$"
