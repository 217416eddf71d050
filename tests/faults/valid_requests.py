"""A valid request for every RPC, made from descriptors and samples; bad input is a mutation of such a request."""

import random
import time
from typing import Any
from uuid import UUID

import protovalidate
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.faults.rpcs import Rpc, is_id, kind_of
from tests.faults.samples import Samples
from tests.integration.people import PASSWORD

_VALIDATOR = protovalidate.Validator()
_TRIES = 60

_TEXTS = {
    "password": PASSWORD,
    "time_zone": "Europe/Berlin",
    "title": "Renew the certificate",
    "display_name": "Operations",
    "device": "laptop",
    "labels": "urgent",
    "text": "certificate",
    "consumer": "bad-input",
    "subject": "taskflow._.task.created",
    "file_by_filename": "taskflow/task/v1/task.proto",
    "file_containing_symbol": "taskflow.task.v1.TaskService",
    "service": "taskflow.task.v1.TaskService",
}
# Valid ranges for fields of these names; other numbers are small.
_NUMBERS = {"year": (2030, 2034), "nanos": (0, 0), "seconds": (0, 59), "hours": (0, 23)}


def valid(rpc: Rpc, samples: Samples, rng: random.Random) -> Any:
    """A request that keeps every rule and names objects of the samples.

    LookupError if no known text satisfies the rules: `_TEXTS` then needs another entry.
    """
    for _ in range(_TRIES):
        request = rpc.request()
        fill(request, rpc, samples, rng, often=rng.choice((0.3, 0.6, 0.9, 1.0)))
        if not violations(request):
            return request
    raise LookupError(f"no valid {rpc.method.input_type.full_name} was found")


def violations(request: Message) -> list[str]:
    """The first proto rule that the request violates, if any."""
    return [found.proto.rule_id for found in _VALIDATOR.collect_violations(request, fail_fast=True)]


def fill(message: Any, rpc: Rpc, samples: Samples, rng: random.Random, often: float) -> None:
    """Set some fields at any depth: each with probability `often`, at most one per oneof."""
    descriptor = message.DESCRIPTOR
    if descriptor.full_name == "google.protobuf.Struct":
        message.update({"handler": "message", "list": [1, {"deep": None}, "text"]})
        return
    if descriptor.full_name == "google.protobuf.Timestamp":
        message.seconds = int(time.time()) + rng.randrange(-1000, 1000)
        return
    chosen = {rng.choice(oneof.fields).name for oneof in descriptor.oneofs}
    for field in descriptor.fields:
        if field.containing_oneof is not None and field.name not in chosen:
            continue
        if rng.random() >= often or field.name == "utc_offset":
            continue
        if field.name == "update_mask":
            _fill_mask(message, field, rng)
        elif field.is_repeated:
            _fill_list(getattr(message, field.name), field, rpc, samples, rng, often)
        elif field.message_type is not None:
            inner = getattr(message, field.name)
            inner.SetInParent()
            fill(inner, rpc, samples, rng, often)
        else:
            setattr(message, field.name, _value(field, rpc, samples, rng))


def _fill_mask(request: Any, field: FieldDescriptor, rng: random.Random) -> None:
    """Fill update_mask with field names of the resource in the same request."""
    (resource,) = (
        other.message_type
        for other in request.DESCRIPTOR.fields
        if other.message_type is not None and other is not field
    )
    names = [inner.name for inner in resource.fields]
    request.update_mask.paths.extend(rng.choice((["*"], names, rng.sample(names, 2))))


def _fill_list(
    values: Any,
    field: FieldDescriptor,
    rpc: Rpc,
    samples: Samples,
    rng: random.Random,
    often: float,
) -> None:
    if field.message_type is not None:
        fill(values.add(), rpc, samples, rng, often)
    else:
        values.append(_value(field, rpc, samples, rng))


def _value(field: FieldDescriptor, rpc: Rpc, samples: Samples, rng: random.Random) -> Any:
    if field.enum_type is not None:
        return rng.choice([value.number for value in field.enum_type.values if value.number])
    match field.cpp_type:
        case field.CPPTYPE_STRING if field.type == field.TYPE_BYTES:
            return rng.randbytes(20)
        case field.CPPTYPE_STRING:
            return _text(field, rpc, samples, rng)
        case field.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case field.CPPTYPE_FLOAT | field.CPPTYPE_DOUBLE:
            return rng.random()
    low, high = _NUMBERS.get(field.name, (1, 12))
    return rng.randint(low, high)


def _text(field: FieldDescriptor, rpc: Rpc, samples: Samples, rng: random.Random) -> str:
    if is_id(field):
        return rng.choice(samples.ids[kind_of(rpc, field, frozenset(samples.ids))])
    match field.name:
        case "request_id" | "event_id":
            return str(UUID(int=rng.getrandbits(128), version=4))
        case "email":
            known = [person.email for person in (samples.member, samples.leaver, samples.operator)]
            return rng.choice([f"{rng.getrandbits(64):x}@example.com", *known])
        case "key":
            return f"K{rng.getrandbits(30):X}"
        case "etag" | "page_token" | "cursor":
            return ""
        case "refresh_token":
            return samples.leaver.tokens.refresh_token
        case "id":
            # The `id` of a google.type.TimeZone is a zone name; `is_id` excludes it from object ids.
            return _TEXTS["time_zone"]
    return _TEXTS.get(field.name, "some text")
