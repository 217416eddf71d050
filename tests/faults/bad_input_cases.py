"""The corpus of bad input: numbered cases, each an RPC and a kind of mutation, reproducible by seed."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from services.platform.rpc.identity import SERVICE_HEADER
from services.platform.rpc.seal import Seal
from taskflow.options.v1.options_pb2 import ACCESS_OPEN, ACCESS_SERVICE
from tests.faults import bad_values, malformed_bytes
from tests.faults.rpcs import FieldPlace, Rpc, every_rpc, message_of, places
from tests.faults.samples import Metadata, Samples
from tests.faults.valid_requests import valid, violations

# Any code that error_reason.proto documents for the reason.
DOCUMENTED: frozenset[str] | None = None
_INVALID = frozenset({"INVALID_ARGUMENT"})
_TOO_LARGE = frozenset({"RESOURCE_EXHAUSTED"})
# No answer may take this long (seconds): even a silent stream sends a heartbeat after 15 s.
PATIENCE = 20.0
_LIMIT = 256 * 1024
# Larger messages are refused by gRPC itself.
_UNREAD = 4 * _LIMIT


@dataclass(frozen=True)
class Case:
    number: int
    kind: str
    rpc: Rpc
    raw: bytes
    metadata: Metadata
    # The status codes that may answer the case, including OK if the case may succeed.
    wanted: frozenset[str] | None = DOCUMENTED
    timeout: float = PATIENCE
    compression: grpc.Compression = grpc.Compression.NoCompression
    # Whether gRPC itself may refuse the case, without one of our error reasons.
    refused_early: bool = False


Make = Callable[[Rpc, Samples, random.Random], dict[str, Any]]


def cases(samples: Samples, seed: int, numbers: range) -> Iterator[Case]:
    """Yields numbered cases: the first kind of mutation for every RPC, then the second kind for every RPC, …"""
    rpcs, kinds = every_rpc(), list(KINDS.items())
    for number in numbers:
        rpc, (kind, make) = (
            rpcs[number % len(rpcs)],
            kinds[number // len(rpcs) % len(kinds)],
        )
        rng = random.Random(f"{seed}:{number}")
        made: dict[str, Any] = {"metadata": samples.credentials(rpc)} | make(rpc, samples, rng)
        if "wanted" not in made:
            made["wanted"] = wanted_by_the_rules(rpc, made["raw"])
        made.setdefault("refused_early", len(made["raw"]) > _UNREAD)
        yield Case(number, kind, rpc, **made)


def wanted_by_the_rules(rpc: Rpc, raw: bytes) -> frozenset[str] | None:
    """The codes that follow from the request alone, before stored data is read."""
    if not rpc.ours:
        return DOCUMENTED
    if len(raw) > _LIMIT:
        return _TOO_LARGE
    try:
        request = rpc.request.FromString(raw)
    except DecodeError:
        return _INVALID
    return _INVALID if violations(request) else DOCUMENTED


# --- kinds


def _as_it_is(rpc: Rpc, samples: Samples, rng: random.Random) -> dict[str, Any]:
    return {"raw": valid(rpc, samples, rng).SerializeToString()}


def _of_bytes(change: Callable[[random.Random, bytes, Rpc], bytes]) -> Make:
    def make(rpc: Rpc, samples: Samples, rng: random.Random) -> dict[str, Any]:
        return {"raw": change(rng, valid(rpc, samples, rng).SerializeToString(), rpc)}

    return make


def _not_utf_8(rpc: Rpc, samples: Samples, rng: random.Random) -> dict[str, Any]:
    return {"raw": malformed_bytes.not_utf_8(rng, valid(rpc, samples, rng), rpc)}


def _values(count: int | None, fits: Callable[[FieldPlace], bool] = lambda _: True) -> Make:
    """Put bad values into `count` of the suitable fields, or into all of them."""

    def make(rpc: Rpc, samples: Samples, rng: random.Random) -> dict[str, Any]:
        request = valid(rpc, samples, rng)
        found = [place for place in places(rpc) if fits(place)] or list(places(rpc))
        for place in found if count is None else rng.sample(found, min(count, len(found))):
            _spoil(place, place.parent(request), rng, samples)
        return {"raw": request.SerializeToString()}

    return make


def _spoil(place: FieldPlace, parent: Any, rng: random.Random, samples: Samples) -> None:
    field = place.field
    if field.message_type is None:
        values = [_bad(field, rng, samples) for _ in range(rng.choice((1, 1, 21, 101)))]
        if field.is_repeated:
            getattr(parent, field.name).extend(values)
        else:
            setattr(parent, field.name, values[0])
    elif field.message_type.full_name == "google.protobuf.FieldMask":
        getattr(parent, field.name).paths[:] = rng.choice(bad_values.MASKS)
    elif field.message_type.full_name == "google.protobuf.Struct":
        _spoil_struct(getattr(parent, field.name), rng)
    elif field.is_repeated:
        for _ in range(rng.choice((1, 11, 101))):
            getattr(parent, field.name).add()
    else:
        parent.ClearField(field.name)
        if rng.random() < 0.5:
            getattr(parent, field.name).SetInParent()


def _bad(field: FieldDescriptor, rng: random.Random, samples: Samples) -> Any:
    if field.name in ("page_token", "cursor", "refresh_token") and rng.random() < 0.7:
        return _another_seal(rng, samples)
    return bad_values.bad_value(field, rng)


def _another_seal(rng: random.Random, samples: Samples) -> str:
    """A page token or cursor from another place, or one that was tampered with."""
    seal = rng.choice([seal for seal in samples.seals if seal])
    at = rng.randrange(len(seal))
    return rng.choice(
        (
            *(seal, seal[:at], seal[at:], seal + "A", seal * 2, seal.swapcase(), seal[::-1]),
            *(seal[:at] + rng.choice("AZaz09-_=+/ ") + seal[at + 1 :], f" {seal}", f"{seal}=="),
        )
    )


def _expired(rpc: Rpc, samples: Samples, rng: random.Random) -> dict[str, Any]:
    """Expired page tokens and cursors for exactly this request."""
    request = valid(rpc, samples, rng)
    # Another case may have removed the caller from the workspace.
    gone = {"NOT_FOUND"} if hasattr(request, "workspace_id") else set()
    if rpc.name in samples.pages:
        return {"raw": rng.choice(samples.pages[rpc.name]), "wanted": frozenset({"OK"} | gone)}
    field = next((name for name in ("cursor", "page_token") if hasattr(request, name)), None)
    if field is None:
        return {"raw": request.SerializeToString()}
    if hasattr(request, "snapshot"):
        request.ClearField("snapshot")
    wanted = {"OK"} if field == "cursor" else {"INVALID_ARGUMENT"}
    setattr(request, field, _left_behind(rpc, request, samples, rng))
    return {"raw": request.SerializeToString(), "wanted": frozenset(wanted | gone)}


def _left_behind(rpc: Rpc, request: Any, samples: Samples, rng: random.Random) -> str:
    """A cursor of a lost stream or database, or one before the kept or after the newest change."""
    if "cursor" not in rpc.method.input_type.fields_by_name:
        return rng.choice(samples.past_seals)
    epoch = rng.choice(("", "0.000000", "1700000000.123456", str(uuid4()), "x" * 300))
    place = [epoch, rng.choice((0, 1, 2**40, 2**63 - 1))]
    seal = Seal(samples.settings)
    if rpc.name == "WatchTasks":
        tag = rng.choice(("", "0" * 16))
        return seal.close([*place, tag], purpose="watch-tasks", context=request.workspace_id)
    return seal.close(place, purpose="watch-notifications", context=samples.owner.id)


def _spoil_struct(struct: Any, rng: random.Random) -> None:
    depth = rng.choice((17, 18, 40, 90))
    deep: Any = "bottom"
    for level in range(depth):
        deep = {"a": deep} if level % 2 else [deep]
    many = {f"key {number}": number for number in range(5000)}
    struct.update(
        rng.choice(
            (
                *(
                    {"deep": deep},
                    {"many": many},
                    {"long": "x" * 70_000},
                    {"": None},
                    {"nul": "a\x00b"},
                ),
                *(
                    {"\x00": 1},
                    {"huge": 1e308},
                    {"e" + "\u0301" * 10_000: "\u202e"},
                    {"handler": 5},
                ),
                *(
                    {"handler": "no such handler"},
                    {"not a number": float("nan")},
                    {"inf": float("inf")},
                ),
            )
        )
    )
    if rng.random() < 0.2:
        # A google.protobuf.Value without a kind.
        struct.fields["nothing"].SetInParent()


def _oversized(rpc: Rpc, samples: Samples, rng: random.Random) -> dict[str, Any]:
    """Requests over the size limit, some of them small when compressed."""
    size = rng.choice((_LIMIT + 1, 2 * _LIMIT, _UNREAD + 1, 4 * _UNREAD))
    raw = valid(rpc, samples, rng).SerializeToString()
    raw += malformed_bytes.sized(15_000, bytes(size))
    packed = rng.choice((grpc.Compression.NoCompression, grpc.Compression.Gzip))
    wanted = _TOO_LARGE if rpc.ours or size > _UNREAD else DOCUMENTED
    return {"raw": raw, "compression": packed, "wanted": wanted, "refused_early": True}


def _in_a_hurry(rpc: Rpc, samples: Samples, rng: random.Random) -> dict[str, Any]:
    ends = frozenset({"DEADLINE_EXCEEDED", "CANCELLED"})
    raw = valid(rpc, samples, rng).SerializeToString()
    return {
        "raw": raw,
        "timeout": rng.choice((0, 0.001, 0.001, 0.005, 0.02)),
        "wanted": ends | {"OK", "*"},
    }


def _wrong_credentials(rpc: Rpc, samples: Samples, rng: random.Random) -> dict[str, Any]:
    raw = rng.choice((b"", b"\xff", valid(rpc, samples, rng).SerializeToString()))
    token = samples.owner.tokens.access_token
    head, body, signature = token.split(".")
    whole = f"Bearer {token}"
    secret = samples.settings.service_secret.get_secret_value()
    sent: Metadata = rng.choice(
        (
            *(
                (),
                (("authorization", ""),),
                (("authorization", "Bearer "),),
                (("authorization", token),),
            ),
            *((("authorization", f"Basic {token}"),), (("authorization", f"Bearer {token[:-9]}"),)),
            *(
                (("authorization", f"Bearer {token}x"),),
                (("authorization", f"Bearer {head}.{body}."),),
            ),
            *(
                (("authorization", f"Bearer {body}.{head}.{signature}"),),
                (("authorization", f"Bearer {'.' * 500}"),),
            ),
            *(
                (("authorization", whole), ("authorization", whole)),
                (("authorization-bin", whole.encode()),),
            ),
            *(
                (("authorization-bin", rng.randbytes(40)),),
                (("authorization", "Bearer " + "A" * 6000),),
            ),
            *(
                (("authorization", f"Bearer eyJhbGciOiJub25lIn0.{body}."),),
                (("authorization", f"Bearer {{}}.{body}"),),
            ),
            *(
                (("authorization", f"Bearer {samples.leaver.tokens.refresh_token}"),),
                (("cookie", whole),),
            ),
            *(
                ((SERVICE_HEADER, secret[:-1]),),
                ((SERVICE_HEADER, ""),),
                ((SERVICE_HEADER, secret),) * 2,
            ),
            *((("x-taskflow-service-bin", secret.encode()),), ((SERVICE_HEADER, "x" * 5000),)),
        )
    )
    wanted: frozenset[str] | None = DOCUMENTED
    if rpc.access == ACCESS_SERVICE:
        wanted = frozenset({"PERMISSION_DENIED"})
    elif rpc.access != ACCESS_OPEN:
        wanted = frozenset({"UNAUTHENTICATED"})
    return {"raw": raw, "metadata": sent, "wanted": wanted}


def _odd_metadata(rpc: Rpc, samples: Samples, rng: random.Random) -> dict[str, Any]:
    """Odd metadata in addition to valid credentials. gRPC may refuse more than 8 KiB in total."""
    extra: Metadata = rng.choice(
        (
            *((("x-junk", "a" * 4000),), (("x-junk", "a" * 9000),), (("x-junk", "a" * 40_000),)),
            *(
                tuple((f"x-{n}", "1") for n in range(60)),
                tuple((f"x-{n}", "1") for n in range(1000)),
            ),
            *(
                (("x-junk-bin", rng.randbytes(3000)),),
                (("x-request-id", "a b;" * 50),),
                (("x-request-id", "x" * 3000),),
            ),
            *(
                (("x-request-id-bin", rng.randbytes(9)),),
                (("x-request-id", "a"), ("x-request-id", "b")),
            ),
            *(
                (("traceparent", "00-zz-zz-zz"),),
                (("traceparent", "0" * 3000),),
                (("tracestate", "=,=,="),),
            ),
            *(
                (("x-forwarded-for", ",,,, ::ffff:1.2.3.4, not an address"),),
                (("x-forwarded-for", ""),),
            ),
            *(
                (("x-forwarded-for", "fe80::1%eth0"),),
                (("x-forwarded-for-bin", b"\x00"),),
                (("baggage", "a=b" * 900),),
            ),
            *(
                (("grpc-accept-encoding", "nothing,at,all"),),
                (("grpc-previous-rpc-attempts", "-1"),),
                (("te", "no"),),
            ),
        )
    )
    raw = valid(rpc, samples, rng).SerializeToString()
    return {"raw": raw, "metadata": (*samples.credentials(rpc), *extra), "refused_early": True}


def _is(*names: str) -> Callable[[FieldPlace], bool]:
    return lambda place: (place.field.message_type or place.field).full_name in names


KINDS: dict[str, Make] = {
    "nothing wrong": _as_it_is,
    **{name: _of_bytes(change) for name, change in malformed_bytes.OF_BYTES.items()},
    "invalid UTF-8": _not_utf_8,
    "one bad value": _values(1),
    "bad texts": _values(1, lambda place: place.field.type == FieldDescriptor.TYPE_STRING),
    "bad ids": _values(1, lambda place: place.field.name.endswith(("id", "ids"))),
    "bad numbers": _values(2, lambda place: place.field.cpp_type in range(1, 7)),
    "unknown enum numbers": _values(1, lambda place: place.field.enum_type is not None),
    "bad times": _values(
        1,
        lambda place: message_of(place.field).name in ("Timestamp", "Date", "DateTime", "TimeZone"),
    ),
    "bad masks and payloads": _values(
        1, _is("google.protobuf.FieldMask", "google.protobuf.Struct")
    ),
    "foreign tokens": _values(
        1, lambda place: place.field.name in ("page_token", "cursor", "refresh_token")
    ),
    "expired tokens": _expired,
    "several bad values": _values(4),
    "all values bad": _values(None),
    "too large": _oversized,
    "no time": _in_a_hurry,
    "wrong credentials": _wrong_credentials,
    "odd metadata": _odd_metadata,
}
