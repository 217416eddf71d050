"""E-mail addresses: the canonical key that accounts are compared by."""

import unicodedata

import idna


def key(email: str) -> str:
    """The canonical form of an e-mail address. Raises ValueError for text that isn't an address.

    The local part is NFC and case-folded, the domain is IDNA A-labels after UTS 46. Case folding would merge domains
    that can have different owners, such as those with ß and ss.
    """
    local, at, domain = _nfc(email).rpartition("@")
    if not (local and at and domain) or domain.endswith("."):
        raise ValueError("not an e-mail address")
    # Raises IDNAError, a ValueError, for an invalid domain.
    ascii_domain = idna.encode(domain, uts46=True, std3_rules=True).decode()
    # Normalises again, because case folding can produce text that isn't NFC.
    return f"{_nfc(local.casefold())}@{ascii_domain}"


def lookup_key(email: str) -> str:
    """The key to look up an account by. Text that isn't an address is returned unchanged: no account has such a key."""
    try:
        return key(email)
    except ValueError:
        return email


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
