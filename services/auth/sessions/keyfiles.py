"""The ES256 keys that sign access tokens: PEM files in one folder, named so that the newest sorts last."""

import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

log = structlog.get_logger()

CURVE = "P-256"

# The format of a key file's name. It holds the key's creation time, so that all copies of the folder agree on the time.
_NAME = "%Y%m%dT%H%M%S.%fZ.pem"
# The name of the first key, which sorts before every name with a time.
_FIRST = "0-first.pem"


def create(folder: Path, ahead: float = 0) -> Path:
    """Creates a signing key with a creation time `ahead` seconds from now, which leaves time to copy it elsewhere.

    Raises FileExistsError.
    """
    file = folder / (datetime.now(UTC) + timedelta(seconds=ahead)).strftime(_NAME)
    if not _write(file):
        raise FileExistsError(file)
    return file


def create_first(folder: Path) -> None:
    """Creates a signing key if the folder has none. If several processes do so at once, all use the first one's key."""
    if not any(folder.glob("*.pem")):
        _write(folder / _FIRST)


def _write(file: Path) -> bool:
    """Writes a new key atomically. Returns False when the file exists already."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.parent / f".{secrets.token_hex(8)}.draft"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(ECKey.generate_key(CURVE).as_pem(private=True))
            out.flush()
            os.fsync(out.fileno())
        # Unlike a rename, creating a link never replaces another process's file.
        os.link(draft, file)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def read(folder: Path) -> Iterator[tuple[ECKey, float]]:
    """Every usable key with its creation time (seconds since the epoch), oldest first."""
    for file in sorted(folder.glob("*.pem"), key=lambda file: file.name):
        try:
            key = ECKey.import_key(file.read_bytes())
            made = _made(file)
            if not key.is_private or key.curve_name != CURVE:
                raise ValueError
        except (OSError, ValueError, TypeError, JoseError):
            # The file may be half written; the next scan reads it again.
            log.warning("not a private key on P-256", file=file.name)
            continue
        yield key, made


def _made(file: Path) -> float:
    """The creation time in a key file's name (seconds since the epoch); without it, the time of the last write."""
    try:
        return datetime.strptime(file.name, _NAME).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return file.stat().st_mtime
