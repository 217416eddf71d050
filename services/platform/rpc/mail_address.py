"""Which e-mail addresses mail can be sent to."""

import re

import idna

from services.platform.rpc.errors import invalid
from services.platform.rpc.nfc import nfc

# RFC 5321 section 4.5.3.1, in octets.
_LONGEST_LOCAL_PART = 64
_LONGEST = 254
# Words of RFC 5322's atext, joined by single dots; characters beyond ASCII by RFC 6531. Quoted local parts are refused:
# no provider gives them out.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u00a1-\U0010ffff-]+"
_LOCAL_PART = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")


def on_the_wire(address: str) -> str:
    """The address in NFC with its domain in A-labels, as SMTP needs it. Raises ValueError for what is no address."""
    local, at, domain = nfc(address).rpartition("@")
    if not at or not _LOCAL_PART.fullmatch(local) or domain.endswith("."):
        raise ValueError("not an e-mail address")
    # IDNAError is a ValueError.
    wire = f"{local}@{idna.encode(domain, uts46=True, std3_rules=True).decode()}"
    if len(local.encode()) > _LONGEST_LOCAL_PART or len(wire.encode()) > _LONGEST:
        raise ValueError("too long for an e-mail address")
    return wire


def check(field: str, address: str) -> None:
    """Raises INVALID_REQUEST unless mail can be sent to the address."""
    try:
        on_the_wire(address)
    except ValueError:
        raise invalid(field, "is not an e-mail address") from None
