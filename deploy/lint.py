"""Runs every check that needs no running server: `make lint`. Fails if one of them fails."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUF = ".venv/bin/buf"


def main() -> None:
    os.chdir(ROOT)
    failed = [name for name, check in CHECKS.items() if not _passes(name, check)]
    if failed:
        sys.exit(f"lint: {', '.join(failed)} failed")
    print("lint: clean")


def _passes(name: str, check: Callable[[], bool]) -> bool:
    started = time.monotonic()
    passed = check()
    print(
        f"{'ok' if passed else 'FAILED':6} {name} ({time.monotonic() - started:.1f} s)", flush=True
    )
    return passed


def _python(*arguments: str) -> Callable[[], bool]:
    return lambda: _run(sys.executable, *arguments)


def _run(*command: str) -> bool:
    """Runs a tool and prints its output if it fails."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if result.returncode != 0:
        sys.stdout.buffer.write(result.stdout)
        sys.stdout.flush()
    return result.returncode == 0


def _breaking() -> bool:
    """Whether clients of the protos on main still work with these protos."""
    base = _base()
    if base is None:
        print("       buf breaking: main has no protos yet, so there is nothing to break")
        return True
    print(f"       buf breaking compares with {base}")
    with tempfile.TemporaryDirectory() as folder:
        # `git archive` instead of a clone, because a shallow checkout can't be cloned.
        archive = subprocess.run(
            ["git", "archive", base, "buf.yaml", "protos"], capture_output=True, check=False
        )
        if archive.returncode != 0:
            sys.stdout.buffer.write(archive.stderr)
            return False
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        return _run(BUF, "breaking", "--against", folder)


def _base() -> str | None:
    """The commit to compare with: the remote's main, else the local main, else HEAD. None if it has no protos."""
    for name in ("origin/main", "main", "HEAD"):
        if _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"):
            found = bool(_git("ls-tree", name, "buf.yaml")) and bool(
                _git("ls-tree", name, "protos/taskflow")
            )
            return _git("log", "-1", "--format=%h", name) if found else None
    return None


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""


CHECKS: dict[str, Callable[[], bool]] = {
    "ruff format": _python("-m", "ruff", "format", "--check", "--diff"),
    "ruff check": _python("-m", "ruff", "check"),
    "mypy": _python("-m", "mypy"),
    "import contracts": _python(
        "-c", "from importlinter.cli import lint_imports_command as run; run()"
    ),
    "method and event options": _python(
        "-c", "import services.platform.rpc.methods, services.platform.events.types"
    ),
    "buf lint": lambda: _run(BUF, "lint"),
    "buf format": lambda: _run(BUF, "format", "--diff", "--exit-code"),
    "buf breaking": _breaking,
    "generated code": _python("-m", "deploy.gen", "--check"),
}


if __name__ == "__main__":
    main()
