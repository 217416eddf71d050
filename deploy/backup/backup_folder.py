"""The files of a backup: a folder, with a manifest that is written last and holds a checksum of each file."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from deploy.local.program import StackError
from services.platform import generated_secrets

DUMP = "database.dump"
# Secrets of the data folder that a backup contains: without them clients would have to log in again, and the embedded
# database would get another password. The launcher makes all other passwords for each data folder.
SECRETS = ("postgres.password", *generated_secrets.FILES.values())
KEYS = "keys"
_MANIFEST = "manifest.json"
_FORMAT = 1
_PIECE = 1024 * 1024


@dataclass(frozen=True)
class Manifest:
    """`made_at` is UTC, `schema` the database's revision. `files` maps names within the folder to SHA-256 sums."""

    made_at: str
    postgres: str
    schema: str
    files: dict[str, str] = field(default_factory=dict)
    format: int = _FORMAT


def copy_secrets(source: Path, target: Path) -> None:
    """Copies the generated secrets from the folder `source` to `target`. Leaves out those that don't exist."""
    for name in SECRETS:
        if (source / name).exists():
            _copy(source / name, target / name)


def copy_keys(keys: Path, target: Path) -> None:
    """Copies the signing keys with their modification times, which can decide when a key retires."""
    if keys.exists():
        (target / KEYS).mkdir(mode=0o700)
        for file in sorted(keys.glob("*.pem")):
            _copy(file, target / KEYS / file.name)


def _copy(source: Path, target: Path) -> None:
    shutil.copy2(source, target)
    target.chmod(0o600)


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Completes and writes the manifest. When it returns, all files are synced and readable by their owner only."""
    names = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = replace(
        manifest, files={str(path.relative_to(folder)): _sum(path) for path in names}
    )
    (folder / _MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n")
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o700 if path.is_dir() else 0o600)
        _sync(path)
    return manifest


def opened(folder: Path) -> Manifest:
    """The manifest of a backup, after comparing all checksums. Raises StackError for an incomplete or damaged one."""
    try:
        read = json.loads((folder / _MANIFEST).read_text())
    except FileNotFoundError:
        raise StackError(
            f"{folder} isn't a backup, or an incomplete one: {_MANIFEST} is missing."
        ) from None
    except (OSError, ValueError) as error:
        raise StackError(f"{folder / _MANIFEST} can't be read: {error}.") from None
    if not isinstance(read, dict) or read.get("format") != _FORMAT:
        raise StackError(
            f"{folder} was made by another TaskFlow, whose backups this one can't read."
        )
    manifest = Manifest(**read)
    for name, expected in manifest.files.items():
        try:
            found = _sum(folder / name)
        except OSError as error:
            raise StackError(
                f"The backup is damaged: {folder / name} can't be read: {error.strerror}."
            ) from None
        if found != expected:
            raise StackError(f"The backup is damaged: {folder / name} isn't what was written.")
    return manifest


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _sum(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
