"""E-mail addresses: the canonical key that accounts are compared by."""

import unicodedata

import idna


def key(email: str) -> str:
    """The local part NFC and case-folded, the domain as IDNA A-labels. ValueError for what is no address.

    The domain is mapped by UTS 46 and not case-folded: that would make one of two domains that somebody can own apart,
    as with ß and ss.
    """
    local, at, domain = _nfc(email).rpartition("@")
    if not (local and at and domain) or domain.endswith("."):
        raise ValueError("not an e-mail address")
    # IDNAError is a ValueError.
    ascii_domain = idna.encode(domain, uts46=True, std3_rules=True).decode()
    # Folding can take text out of NFC.
    return f"{_nfc(local.casefold())}@{ascii_domain}"


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
