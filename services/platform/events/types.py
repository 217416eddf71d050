"""Types and subjects of events, read from the options in event.proto."""

from google.protobuf.message import Message

from taskflow.event.v1.event_pb2 import Event
from taskflow.options.v1 import options_pb2


class UndeclaredEvent(Exception):
    """Raised if a facts message declares no event type, or if an event's facts don't declare the event's type."""


def types(facts: type[Message]) -> tuple[str, ...]:
    """The types of events with these facts, such as ("job.created", "job.updated")."""
    return tuple(facts.DESCRIPTOR.GetOptions().Extensions[options_pb2.event_type])


def subjects(*facts: type[Message], workspace: str = "*") -> list[str]:
    """The subjects of all events with these facts; a `workspace` id narrows them to one workspace."""
    return [f"taskflow.{workspace}.{name}" for each in facts for name in types(each)]


def _declared() -> dict[str, frozenset[str]]:
    """Name of the facts' field in Event → the event's possible types."""
    declared = {}
    for field in Event.DESCRIPTOR.oneofs_by_name["facts"].fields:
        assert field.message_type is not None
        names = field.message_type.GetOptions().Extensions[options_pb2.event_type]
        if not names:
            raise UndeclaredEvent(f"{field.message_type.full_name} declares no event_type")
        declared[field.name] = frozenset(names)
    return declared


_DECLARED = _declared()


def check(event: Event) -> None:
    """Raises UndeclaredEvent unless the event's facts declare its type."""
    facts = event.WhichOneof("facts")
    if facts is None or event.type not in _DECLARED[facts]:
        raise UndeclaredEvent(f"{event.type} isn't a type of {facts}")
