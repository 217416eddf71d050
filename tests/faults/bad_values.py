"""Bad values by field type, of kinds known to break servers."""

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from tests.faults.rpcs import message_of

TEXTS = (
    *(
        "",
        " ",
        "\u2003",
        "\t",
        "\x00",
        "a\x00b",
        "\x01\x02\x1f",
        "\x7f\x85\x9f",
        "a\r\nb",
        "\u2028\u2029",
    ),
    *(
        "ada\u202egnp.exe",
        "\u2066\u2067\u2068\u2069",
        "\u200b\u200c\u200d\u2060",
        "\ufeff",
        "\ufffe\uffff",
    ),
    *("\U0010ffff", "\ufdd0", "\U000e0001\U000e0041", "\ufffd", "🏴\u200d☠️" * 50, "İıſßẞ" * 60),
    *(
        "e" + "\u0301" * 10_000,
        "\u0301\u0316" * 10_000,
        "\u0344" * 200,
        "\ufb2c" * 250,
        "\u1d160" * 200,
        "\u0958" * 255,
    ),
    *(
        "%",
        "_",
        "\\",
        "100%_\\",
        "%" * 200,
        "\\" * 199,
        "'",
        "''",
        "' OR 1=1 --",
        '"; DROP TABLE task.tasks; --',
    ),
    *(
        "& | ! ( ) <->",
        "a:*",
        "'a' <-> !'b'",
        "((((",
        ":*",
        "$1",
        "$$",
        "%(title)s",
        "%s%n%x",
        "{0}",
        "{{7*7}}",
    ),
    *(
        "${jndi:ldap://127.0.0.1/a}",
        "<script>alert(1)</script>",
        "../../../etc/passwd",
        "file:///etc/passwd",
    ),
    *(
        "x" * 256,
        "x" * 1025,
        "x" * 20_001,
        "x" * 100_000,
        "😀" * 20_001,
        "null",
        "undefined",
        "NaN",
        "-1",
        "1e309",
    ),
)
IDS = (
    *(
        "0",
        "-1",
        "not-a-uuid",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    ),
    *("{0198c0de-0000-7000-8000-000000000000}", "urn:uuid:0198c0de-0000-7000-8000-000000000000"),
    *(
        "0198c0de000070008000000000000000",
        "0198C0DE-0000-7000-8000-000000000000",
        "0198c0de-0000-7000-8000-00000000000",
    ),
    *(
        "0198c0de-0000-7000-8000-00000000000g",
        "0198c0de-0000-7000-8000-0000000000001",
        "０198c0de-0000-7000-8000-000000000000",
    ),
    *(
        "0198c0de-0000-7000-8000-000000000000\n",
        " 0198c0de-0000-7000-8000-000000000000",
        "0198c0de_0000_7000_8000_000000000000",
    ),
    *(
        "OPS-0",
        "OPS-1",
        "ops-1",
        "OPS-99999999999999999999",
        "OPS-999999999999999999",
        "OPS--1",
        "OPS-1\n",
        "P0-1",
        "OPS-１",
    ),
)
EMAILS = (
    *(
        "ada",
        "@",
        "a@",
        "@b",
        "a@b@c",
        "a@b\r\nBcc: eve@example.com",
        "a\r\n@b.example",
        "a@b.example\x00",
        "<a@b.example>",
    ),
    *(
        "a@xn--zzzzzzz\u00e4.com",
        "a@xn--a.com",
        "a@xn--",
        "a@\u0301b.com",
        "a@\u202eb.com",
        "a@b..com",
        "a@.com",
        "a@com.",
    ),
    *(
        "\u0430da@example.com",
        "ada@ex\u0430mple.com",
        "ada@\u24d4xample.com",
        "ada@example\u3002com",
        "ada@stra\u00dfe.de",
    ),
    *(
        "a" * 65 + "@example.com",
        "a@" + "b" * 64 + ".com",
        "a@" + "b." * 120 + "com",
        "\u0130@example.com",
        "a@\u0660\u0661.com",
    ),
    *(
        "a@" + "\u00fc" * 63 + ".de",
        '"a b"@example.com',
        "a@[127.0.0.1]",
        "a@localhost",
        "a@\u200d.com",
        "a@-b.com",
        "\u0344" * 84 + "@b.de",
    ),
)
ZONES = (
    *(
        "Mars/Olympus",
        "../../etc/passwd",
        "/etc/localtime",
        "localtime",
        "posixrules",
        "tzdata.zi",
        "zone.tab",
        "UTC+25",
    ),
    *(
        "europe/berlin",
        "Europe/Berlin\x00",
        "Europe",
        "",
        "EST5EDT4,M3.2.0,M11.1.0",
        "right/UTC",
        "Etc/GMT+99",
        "a" * 64,
        "a" * 5000,
    ),
)
MASKS: tuple[tuple[str, ...], ...] = (
    *(
        ("",),
        (".",),
        ("*", "title"),
        ("nothing",),
        ("title.x",),
        ("title\x00",),
        ("*.*",),
        ("Title",),
        ("due.date.year.x",),
    ),
    *(
        ("due.date",),
        ("payload.fields.a",),
        ("labels.0",),
        ("id",),
        ("revision", "etag"),
        ("a." * 5000,),
        ("\u202e",),
    ),
    *(
        ("display_name",) * 5000,
        ("__class__",),
        ("update_mask",),
        ("title,description",),
        ("%s",),
        ("x" * 50_000,),
    ),
)
INTEGERS = (0, 1, -1, 2**31 - 1, -(2**31), 1001, 10**6, 255, 65536)
LONGS = (*INTEGERS, 2**63 - 1, -(2**63), 2**53 + 1, 253_402_300_800, -62_135_596_801)
FLOATS = (float("nan"), float("inf"), float("-inf"), -1.0, 1.0000001, 1e38, -0.0, 5e-324)
ENUMS = (99, -1, 2**31 - 1, -(2**31), 0, 5)
# Page tokens and cursors not issued by us.
SEALS = (
    "x",
    "=",
    "====",
    "AAAA",
    "A" * 1024,
    "A" * 1025,
    "\u00e9",
    "../..",
    "e30",
    "bnVsbA",
    "W10",
    "eyJhbGciOiJub25lIn0.e30.",
    "\x00",
)


def bad_value(field: FieldDescriptor, rng: random.Random) -> Any:
    """A bad value for a field that isn't a message. Values that Python can't set are made by malformed_bytes.py."""
    if field.enum_type is not None:
        return rng.choice(ENUMS)
    match field.cpp_type:
        case field.CPPTYPE_STRING if field.type == field.TYPE_BYTES:
            return rng.randbytes(rng.choice((0, 1, 100, 100_000)))
        case field.CPPTYPE_STRING:
            return rng.choice(_texts_for(field))
        case field.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case field.CPPTYPE_FLOAT | field.CPPTYPE_DOUBLE:
            return rng.choice(FLOATS)
        case field.CPPTYPE_INT64:
            return rng.choice(LONGS)
        case field.CPPTYPE_UINT64 | field.CPPTYPE_UINT32:
            return rng.choice([abs(number) for number in INTEGERS[:-3]])
    return rng.choice(INTEGERS)


def _texts_for(field: FieldDescriptor) -> tuple[str, ...]:
    """Bad texts, mostly specific to this field."""
    name = field.name
    own: tuple[str, ...] = TEXTS
    if name == "email":
        own = EMAILS
    elif "zone" in name or message_of(field).name == "TimeZone":
        own = ZONES
    elif name in ("page_token", "cursor", "refresh_token", "etag"):
        own = SEALS
    elif name in ("id", "ids") or name.endswith(("_id", "_ids")):
        own = IDS
    return own + TEXTS[:: 1 if own is TEXTS else 4]
