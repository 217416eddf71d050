"""Installs TaskFlow into .venv: `make setup`. Needs only Python itself, and does nothing when everything is installed.

Everything installed is pinned by version and hash in requirements.lock, the installer and build tools included.
"""

import fcntl
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
STAMP = VENV / "installed"
# A change in one of these files triggers another installation.
INPUTS = (
    "requirements.lock",
    "pyproject.toml",
    "clients/python/pyproject.toml",
    "deploy/setup_venv.py",
)


def main() -> None:
    os.chdir(ROOT)
    with _alone():
        wanted = _fingerprint()
        if _runs(PYTHON, "-c", "") and STAMP.exists() and STAMP.read_text() == wanted:
            if "--verbose" in sys.argv[1:]:
                print("Everything is installed.")
            return
        STAMP.unlink(missing_ok=True)
        _make_venv()
        _get_uv()
        _install_locked()
        _install_taskflow()
        _compile()
        STAMP.write_text(wanted)
    print("Installed.", flush=True)


@contextmanager
def _alone() -> Iterator[None]:
    """Holds a lock, so that two targets started at once install one after the other."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _fingerprint() -> str:
    # The fingerprint includes the project's path, because an editable installation stores that path.
    parts = [str(ROOT).encode(), *((ROOT / name).read_bytes() for name in INPUTS)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _runs(*command: str | Path) -> bool:
    """Whether a program works. An interrupted installation may have left it incomplete."""
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _make_venv() -> None:
    if _runs(PYTHON, "-m", "pip", "--version") or (
        _runs(PYTHON, "-c", "") and _runs(UV, "--version")
    ):
        return
    _step(1, f"a virtual environment in .venv with Python {sys.version.split()[0]}")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        sys.exit(
            f"{sys.executable} lacks the module venv. On Debian and Ubuntu it comes with: "
            f"apt install python{version}-venv"
        )
    _run(getattr(sys, "_base_executable", sys.executable), "-m", "venv", "--clear", VENV)


def _get_uv() -> None:
    if _runs(UV, "--version"):
        return
    _step(2, "uv, the installer")
    pinned = re.search(r"^uv==(?:.*\\\n)*.*\n", (ROOT / "requirements.lock").read_text(), re.M)
    if pinned is None:
        sys.exit("requirements.lock doesn't name uv. Run `git checkout requirements.lock`.")
    requirement = VENV / "uv.txt"
    requirement.write_text(pinned[0])
    _run(
        PYTHON,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--force-reinstall",
        "--no-deps",
        "--require-hashes",
        "-r",
        requirement,
    )


def _install_locked() -> None:
    _step(3, "the packages of requirements.lock")
    _run(UV, "pip", "sync", "--python", PYTHON, "--require-hashes", "requirements.lock")


def _install_taskflow() -> None:
    _step(4, "TaskFlow itself, as editable")
    # The locked build tools build our packages, so that the installer fetches nothing unpinned.
    options = ("--quiet", "--python", PYTHON, "--no-deps", "--no-build-isolation")
    _run(UV, "pip", "install", *options, "--editable", "clients/python", "--editable", ".")


def _compile() -> None:
    _step(5, "compiled copies of what the servers load")
    # Import the modules once, so that Python compiles them here and not at the first start, in many processes at once.
    # A failure here does no harm.
    modules = "services.app, services.migrations.upgrade, workflows.__main__, deploy.local.__main__"
    subprocess.run([PYTHON, "-c", f"import {modules}"], capture_output=True, check=False)


def _step(number: int, what: str) -> None:
    print(f"[{number}/5] Installing {what}", flush=True)


def _run(*command: str | Path) -> None:
    try:
        subprocess.run([str(part) for part in command], check=True, env=_environment())
    except subprocess.CalledProcessError:
        sys.exit(
            "That failed; the reason is above. Run the same command again to continue from here."
        )
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. Run the same command again to continue from here.")


def _environment() -> dict[str, str]:
    """Our environment variables, and those that make uv use the same cache and package index as pip."""
    environment = dict(os.environ)
    home = Path(environment.get("XDG_CACHE_HOME") or environment.get("HOME") or "/nonexistent")
    if not os.access(home, os.W_OK) and "UV_CACHE_DIR" not in environment:
        environment["UV_NO_CACHE"] = "1"
    if (mirror := _pip_index()) and not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & environment.keys():
        environment["UV_DEFAULT_INDEX"] = mirror
    return environment


def _pip_index() -> str:
    """The package index pip is configured for, when it isn't the public one."""
    if mirror := os.environ.get("PIP_INDEX_URL"):
        return mirror
    if not (VENV / "bin" / "pip").exists():
        return ""
    asked = subprocess.run(
        [PYTHON, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip()


if __name__ == "__main__":
    main()
