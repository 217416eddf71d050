"""Forged access tokens, each with one flaw."""

import base64
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc import jws
from joserfc.jwk import ECKey

from services.auth.sessions import keyfiles
from services.platform.config import Settings
from tests.integration.people import Person

Values = dict[str, Any]


def signing_key(settings: Settings) -> ECKey:
    (key, _), *_ = keyfiles.read(settings.keys)
    return key


def part(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def claims_of(person: Person) -> Values:
    claims: Values = json.loads(jws.extract_compact(person.tokens.access_token.encode()).payload)
    return claims


def header_of(person: Person) -> Values:
    return dict(jws.extract_compact(person.tokens.access_token.encode()).headers())


def signed(header: Values, claims: Values, key: ECKey) -> str:
    """A token with an ES256 signature, regardless of its header."""
    message = f"{part(header)}.{part(claims)}"
    assert key.private_key is not None
    r, s = decode_dss_signature(key.private_key.sign(message.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{message}.{part(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def hs256(header: Values, claims: Values, secret: bytes) -> str:
    message = f"{part({**header, 'alg': 'HS256'})}.{part(claims)}"
    return f"{message}.{part(hmac.digest(secret, message.encode(), 'sha256'))}"


# A function that makes a forged token from the header, claims and key of a valid one.
Forge = Callable[[Values, Values, ECKey], str]


def _without(name: str) -> Forge:
    return lambda head, claims, key: signed(
        head, {k: v for k, v in claims.items() if k != name}, key
    )


FORGERIES: dict[str, Forge] = {
    "alg none": lambda head, claims, key: f"{part({**head, 'alg': 'none'})}.{part(claims)}.",
    "alg none with the signature": lambda head, claims, key: signed(
        {**head, "alg": "none"}, claims, key
    ),
    "HS256 signed with the public PEM": lambda head, claims, key: hs256(
        head, claims, key.as_pem(private=False)
    ),
    "HS256 signed with the public DER": lambda head, claims, key: hs256(
        head, claims, key.as_der(private=False)
    ),
    "HS256 signed with x": lambda head, claims, key: hs256(head, claims, str(key["x"]).encode()),
    "alg missing": lambda head, claims, key: signed({"kid": head["kid"]}, claims, key),
    "kid missing": lambda head, claims, key: signed({"alg": "ES256"}, claims, key),
    "kid with a path": lambda head, claims, key: signed(
        {**head, "kid": "../../0-first"}, claims, key
    ),
    "kid with SQL": lambda head, claims, key: signed({**head, "kid": "' OR 1=1 --"}, claims, key),
    "kid that is no string": lambda head, claims, key: signed(
        {**head, "kid": [head["kid"]]}, claims, key
    ),
    "kid that is an object": lambda head, claims, key: signed({**head, "kid": {}}, claims, key),
    "unknown critical header": lambda head, claims, key: signed(
        {**head, "crit": ["exp"]}, claims, key
    ),
    "another key under our kid": lambda head, claims, key: signed(
        head, claims, ECKey.generate_key("P-256")
    ),
    "another key in jwk": lambda head, claims, key: signed(
        {**head, "jwk": (other := ECKey.generate_key("P-256")).as_dict(private=False)},
        claims,
        other,
    ),
    "expired": lambda head, claims, key: signed(
        head, {**claims, "iat": time.time() - 601, "exp": time.time() - 1}, key
    ),
    "exp far in the future": lambda head, claims, key: signed(
        head, {**claims, "exp": time.time() + 10 * 365 * 86400}, key
    ),
    "exp and iat far in the future": lambda head, claims, key: signed(
        head, {**claims, "iat": time.time() + 86400, "exp": time.time() + 86700}, key
    ),
    "exp infinite": lambda head, claims, key: signed(head, {**claims, "exp": float("inf")}, key),
    "exp not a number": lambda head, claims, key: signed(
        head, {**claims, "exp": float("nan")}, key
    ),
    "exp a word": lambda head, claims, key: signed(head, {**claims, "exp": "never"}, key),
    "issuer of somebody else": lambda head, claims, key: signed(
        head, {**claims, "iss": "https://evil.example"}, key
    ),
    "audience of somebody else": lambda head, claims, key: signed(
        head, {**claims, "aud": "other"}, key
    ),
    "several audiences": lambda head, claims, key: signed(
        head, {**claims, "aud": [claims["aud"], "other"]}, key
    ),
    "another type": lambda head, claims, key: signed(head, {**claims, "typ": "refresh"}, key),
    "sub that is no id": lambda head, claims, key: signed(head, {**claims, "sub": "admin"}, key),
    "sub that is no string": lambda head, claims, key: signed(head, {**claims, "sub": 1}, key),
    "claims that are a list": lambda head, claims, key: signed(head, [claims], key),  # type: ignore[arg-type]
    **{
        f"without {name}": _without(name)
        for name in ("iss", "aud", "sub", "sid", "typ", "iat", "exp")
    },
}
