"""The ES256 keys that sign access tokens: PEM files in one folder, named so that the newest sorts last."""

import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import structlog
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

log = structlog.get_logger()

CURVE = "P-256"

# Sorts before every name that carries a time.
_FIRST = "0-first.pem"


def create(folder: Path) -> Path:
    """Makes a new key, which becomes the newest."""
    file = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.pem"
    if not _write(file):
        raise FileExistsError(file)
    return file


def create_first(folder: Path) -> None:
    """Makes a key where there is none. Of several processes at once exactly one does, and all find the same."""
    if not any(folder.glob("*.pem")):
        _write(folder / _FIRST)


def _write(file: Path) -> bool:
    """False when the file is there already. It appears complete or not at all."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.parent / f".{secrets.token_hex(8)}.draft"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(ECKey.generate_key(CURVE).as_pem(private=True))
            out.flush()
            os.fsync(out.fileno())
        # Unlike a rename, a link never replaces what another process put there.
        os.link(draft, file)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def read(folder: Path) -> Iterator[tuple[ECKey, float]]:
    """Every usable key with the time its file was written (seconds since the epoch), oldest first."""
    for file in sorted(folder.glob("*.pem"), key=lambda file: file.name):
        try:
            key = ECKey.import_key(file.read_bytes())
            written = file.stat().st_mtime
            if not key.is_private or key.curve_name != CURVE:
                raise ValueError
        except (OSError, ValueError, TypeError, JoseError):
            # Half-written perhaps: it's looked at again.
            log.warning("not a private key on P-256", file=file.name)
            continue
        yield key, written
