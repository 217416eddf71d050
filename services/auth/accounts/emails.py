"""E-mail addresses: the canonical key that accounts are compared by."""

import unicodedata

import idna


def key(email: str) -> str:
    """The local part NFC and case-folded, the domain as IDNA A-labels. Raises ValueError unless it is an address.

    UTS 46 maps the domain instead of case folding, which would merge domains that can have different owners: ß and ss.
    """
    local, at, domain = _nfc(email).rpartition("@")
    if not (local and at and domain) or domain.endswith("."):
        raise ValueError("not an e-mail address")
    # IDNAError is a ValueError.
    ascii_domain = idna.encode(domain, uts46=True, std3_rules=True).decode()
    # Case folding can produce text that isn't NFC.
    return f"{_nfc(local.casefold())}@{ascii_domain}"


def lookup_key(email: str) -> str:
    """The key to look an account up by. Text that is no address is returned as it is: no account has it as its key."""
    try:
        return key(email)
    except ValueError:
        return email


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
