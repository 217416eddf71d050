"""E-mail addresses: the canonical key that accounts are compared by."""

import idna

from services.platform.rpc.nfc import nfc


def lookup_key(email: str) -> str:
    """The key by which an account is found: the local part in NFC and case-folded, the domain as IDNA A-labels.

    UTS 46 maps the domain. Case folding would merge domains that can have different owners: ß and ss. A text that is no
    address is returned as it is, and no account has it as its key. New accounts are checked more strictly
    (services.platform.rpc.mail_address); accounts from before that check are still found.
    """
    local, at, domain = nfc(email).rpartition("@")
    if not (local and at and domain) or domain.endswith("."):
        return email
    try:
        ascii_domain = idna.encode(domain, uts46=True, std3_rules=True).decode()
    except ValueError:  # IDNAError is one
        return email
    # Case folding can produce text that isn't NFC.
    return f"{nfc(local.casefold())}@{ascii_domain}"
