"""Secrets that are made at the first start and kept in the data folder, so that no default is public."""

import os
import secrets
import sys
from pathlib import Path

from pydantic import SecretStr

from services.platform.config import Settings

# The setting → the file in the data folder that holds the value while the setting is unset.
FILES = {"token_secret": "token.secret", "service_secret": "service.secret"}


def secret(folder: Path, name: str) -> str:
    """The secret in the file `name` of the folder, made at first use and readable by its owner only. Raises OSError.

    Processes that start at the same time get the same secret.
    """
    file = folder / name
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        pass
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = folder / f"{name}.{os.getpid()}.{secrets.token_hex(4)}"
    with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(secrets.token_urlsafe(32) + "\n")
        out.flush()
        os.fsync(out.fileno())
    try:
        # Unlike a rename, a link never replaces the file that another process made first.
        os.link(made, file)
    except FileExistsError:
        pass
    finally:
        made.unlink()
    return file.read_text().strip()


def with_secrets(settings: Settings) -> Settings:
    """The settings with a value for each secret that they leave unset. Raises OSError."""
    unset = {
        name: file for name, file in FILES.items() if not getattr(settings, name).get_secret_value()
    }
    values = {name: SecretStr(secret(settings.data_dir, file)) for name, file in unset.items()}
    return settings.model_copy(update=values)


def or_exit(settings: Settings) -> Settings:
    """The settings with all secrets. Exits with a sentence where the data folder can't keep one."""
    try:
        return with_secrets(settings)
    except OSError as error:
        sys.exit(
            f"configuration: TASKFLOW_TOKEN_SECRET or TASKFLOW_SERVICE_SECRET is unset, and {settings.data_dir} "
            f"can't keep a generated one: {error.strerror}."
        )
