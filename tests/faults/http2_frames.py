"""Hand-made HTTP/2 frames (RFC 9113), which no client library would send."""

import struct
from collections.abc import Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    *(0, 1, 2, 3, 4),
    *(6, 7, 8, 9),
)
END_STREAM, END_HEADERS = 1, 4
CANCEL = 8
# Size of a frame header (bytes).
HEAD = 9
# A parameter of SETTINGS.
_INITIAL_WINDOW_SIZE = 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def head(raw: bytes) -> tuple[int, int]:
    """Payload length and type from a frame's first `HEAD` bytes."""
    return int.from_bytes(raw[:3], "big"), raw[3]


def greeting(window: int = 65_535) -> bytes:
    """The start of a connection. `window` is the initial flow-control window of each stream (bytes)."""
    return PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, window))


def block(headers: Iterable[tuple[str, str]]) -> bytes:
    """A header block with literal fields that aren't indexed (RFC 7541, 6.2.2)."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)


def call(path: str, authority: str, *more: tuple[str, str]) -> bytes:
    """The header block of a gRPC call."""
    return block(
        (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *more,
        )
    )


def _text(text: str) -> bytes:
    raw = text.encode()
    return _integer(len(raw)) + raw


def _integer(value: int) -> bytes:
    """An HPACK integer with a prefix of seven bits (RFC 7541, 5.1)."""
    if value < 127:
        return bytes([value])
    value -= 127
    rest = b""
    while value >= 128:
        rest += bytes([value % 128 + 128])
        value //= 128
    return b"\x7f" + rest + bytes([value])
