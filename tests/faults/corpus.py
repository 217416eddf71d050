"""The corpus of bad input: numbered cases, each an RPC and a kind of badness, the same again for the same seed."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from services.platform.identity import SERVICE_HEADER
from services.platform.seal import Seal
from taskflow.options.v1.options_pb2 import ACCESS_OPEN, ACCESS_SERVICE
from tests.faults import texts, wire
from tests.faults.rpcs import Place, Rpc, every_rpc, message_of, places
from tests.faults.seeds import valid, violations
from tests.faults.world import Metadata, World

# Any code that error_reason.proto documents for what went wrong.
DOCUMENTED: frozenset[str] | None = None
_INVALID = frozenset({"INVALID_ARGUMENT"})
_TOO_LARGE = frozenset({"RESOURCE_EXHAUSTED"})
# Seconds; nothing here may take so long, a stream that has nothing to say but its heartbeat (15 s) neither.
PATIENCE = 20.0
_LIMIT = 256 * 1024
# What is larger gRPC refuses by itself.
_UNREAD = 4 * _LIMIT


@dataclass(frozen=True)
class Case:
    number: int
    kind: str
    rpc: Rpc
    raw: bytes
    metadata: Metadata
    # The codes that it may end with, OK among them where it may succeed.
    wanted: frozenset[str] | None = DOCUMENTED
    timeout: float = PATIENCE
    compression: grpc.Compression = grpc.Compression.NoCompression
    # Whether gRPC itself may refuse it, which knows none of our reasons.
    refused_early: bool = False


Make = Callable[[Rpc, World, random.Random], dict[str, Any]]


def cases(world: World, seed: int, numbers: range) -> Iterator[Case]:
    """Every RPC in turn; after each round of them the next kind."""
    rpcs, kinds = every_rpc(), list(KINDS.items())
    for number in numbers:
        rpc, (kind, make) = (
            rpcs[number % len(rpcs)],
            kinds[number // len(rpcs) % len(kinds)],
        )
        rng = random.Random(f"{seed}:{number}")
        made: dict[str, Any] = {"metadata": world.credentials(rpc)} | make(rpc, world, rng)
        if "wanted" not in made:
            made["wanted"] = wanted_by_the_rules(rpc, made["raw"])
        made.setdefault("refused_early", len(made["raw"]) > _UNREAD)
        yield Case(number, kind, rpc, **made)


def wanted_by_the_rules(rpc: Rpc, raw: bytes) -> frozenset[str] | None:
    """What the request alone decides, before anything that is stored is looked at."""
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


def _as_it_is(rpc: Rpc, world: World, rng: random.Random) -> dict[str, Any]:
    return {"raw": valid(rpc, world, rng).SerializeToString()}


def _of_bytes(change: Callable[[random.Random, bytes, Rpc], bytes]) -> Make:
    def make(rpc: Rpc, world: World, rng: random.Random) -> dict[str, Any]:
        return {"raw": change(rng, valid(rpc, world, rng).SerializeToString(), rpc)}

    return make


def _not_utf_8(rpc: Rpc, world: World, rng: random.Random) -> dict[str, Any]:
    return {"raw": wire.not_utf_8(rng, valid(rpc, world, rng), rpc)}


def _values(count: int | None, fits: Callable[[Place], bool] = lambda _: True) -> Make:
    """With bad values in `count` of the fields that fit, or in all of them."""

    def make(rpc: Rpc, world: World, rng: random.Random) -> dict[str, Any]:
        request = valid(rpc, world, rng)
        found = [place for place in places(rpc) if fits(place)] or list(places(rpc))
        for place in found if count is None else rng.sample(found, min(count, len(found))):
            _spoil(place, place.parent(request), rng, world)
        return {"raw": request.SerializeToString()}

    return make


def _spoil(place: Place, parent: Any, rng: random.Random, world: World) -> None:
    field = place.field
    if field.message_type is None:
        values = [_bad(field, rng, world) for _ in range(rng.choice((1, 1, 21, 101)))]
        if field.is_repeated:
            getattr(parent, field.name).extend(values)
        else:
            setattr(parent, field.name, values[0])
    elif field.message_type.full_name == "google.protobuf.FieldMask":
        getattr(parent, field.name).paths[:] = rng.choice(texts.MASKS)
    elif field.message_type.full_name == "google.protobuf.Struct":
        _spoil_struct(getattr(parent, field.name), rng)
    elif field.is_repeated:
        for _ in range(rng.choice((1, 11, 101))):
            getattr(parent, field.name).add()
    else:
        parent.ClearField(field.name)
        if rng.random() < 0.5:
            getattr(parent, field.name).SetInParent()


def _bad(field: FieldDescriptor, rng: random.Random, world: World) -> Any:
    if field.name in ("page_token", "cursor", "refresh_token") and rng.random() < 0.7:
        return _another_seal(rng, world)
    return texts.bad_value(field, rng)


def _another_seal(rng: random.Random, world: World) -> str:
    """A token of ours that belongs elsewhere, or was tampered with."""
    seal = rng.choice([seal for seal in world.seals if seal])
    at = rng.randrange(len(seal))
    return rng.choice(
        (
            *(seal, seal[:at], seal[at:], seal + "A", seal * 2, seal.swapcase(), seal[::-1]),
            *(seal[:at] + rng.choice("AZaz09-_=+/ ") + seal[at + 1 :], f" {seal}", f"{seal}=="),
        )
    )


def _expired(rpc: Rpc, world: World, rng: random.Random) -> dict[str, Any]:
    """Tokens and cursors of ours, for this very request, whose time is over."""
    request = valid(rpc, world, rng)
    # Who may have left the workspace by another case.
    gone = {"NOT_FOUND"} if hasattr(request, "workspace_id") else set()
    if rpc.name in world.pages:
        return {"raw": rng.choice(world.pages[rpc.name]), "wanted": frozenset({"OK"} | gone)}
    field = next((name for name in ("cursor", "page_token") if hasattr(request, name)), None)
    if field is None:
        return {"raw": request.SerializeToString()}
    if hasattr(request, "snapshot"):
        request.ClearField("snapshot")
    wanted = {"OK"} if field == "cursor" else {"INVALID_ARGUMENT"}
    setattr(request, field, _left_behind(rpc, request, world, rng))
    return {"raw": request.SerializeToString(), "wanted": frozenset(wanted | gone)}


def _left_behind(rpc: Rpc, request: Any, world: World, rng: random.Random) -> str:
    """A cursor of a stream, or of a database, that is gone; or a place that was deleted or never reached."""
    if "cursor" not in rpc.method.input_type.fields_by_name:
        return rng.choice(world.past_seals)
    epoch = rng.choice(("", "0.000000", "1700000000.123456", str(uuid4()), "x" * 300))
    place = [epoch, rng.choice((0, 1, 2**40, 2**63 - 1))]
    seal = Seal(world.settings)
    if rpc.name == "WatchTasks":
        tag = rng.choice(("", "0" * 16))
        return seal.close([*place, tag], purpose="watch-tasks", context=request.workspace_id)
    return seal.close(place, purpose="watch-notifications", context=world.owner.id)


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
        # A value of no kind.
        struct.fields["nothing"].SetInParent()


def _oversized(rpc: Rpc, world: World, rng: random.Random) -> dict[str, Any]:
    """Beyond what is taken, also when it's small on its way."""
    size = rng.choice((_LIMIT + 1, 2 * _LIMIT, _UNREAD + 1, 4 * _UNREAD))
    raw = valid(rpc, world, rng).SerializeToString()
    raw += wire.sized(15_000, bytes(size))
    packed = rng.choice((grpc.Compression.NoCompression, grpc.Compression.Gzip))
    wanted = _TOO_LARGE if rpc.ours or size > _UNREAD else DOCUMENTED
    return {"raw": raw, "compression": packed, "wanted": wanted, "refused_early": True}


def _in_a_hurry(rpc: Rpc, world: World, rng: random.Random) -> dict[str, Any]:
    ends = frozenset({"DEADLINE_EXCEEDED", "CANCELLED"})
    raw = valid(rpc, world, rng).SerializeToString()
    return {
        "raw": raw,
        "timeout": rng.choice((0, 0.001, 0.001, 0.005, 0.02)),
        "wanted": ends | {"OK", "*"},
    }


def _wrong_credentials(rpc: Rpc, world: World, rng: random.Random) -> dict[str, Any]:
    raw = rng.choice((b"", b"\xff", valid(rpc, world, rng).SerializeToString()))
    token = world.owner.tokens.access_token
    head, body, signature = token.split(".")
    whole = f"Bearer {token}"
    secret = world.settings.service_secret.get_secret_value()
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
                (("authorization", f"Bearer {world.leaver.tokens.refresh_token}"),),
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


def _odd_metadata(rpc: Rpc, world: World, rng: random.Random) -> dict[str, Any]:
    """Beside credentials that are right. What is longer than 8 KiB in all may be refused by gRPC."""
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
    raw = valid(rpc, world, rng).SerializeToString()
    return {"raw": raw, "metadata": (*world.credentials(rpc), *extra), "refused_early": True}


def _is(*names: str) -> Callable[[Place], bool]:
    return lambda place: (place.field.message_type or place.field).full_name in names


KINDS: dict[str, Make] = {
    "nothing wrong": _as_it_is,
    **{name: _of_bytes(change) for name, change in wire.OF_BYTES.items()},
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
