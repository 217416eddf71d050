"""Generates the Python stubs from the protos: `make gen`. With `--check`, only compares."""

import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "clients" / "python"
PACKAGES = ("taskflow", "buf")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        _generate(fresh)
        stale = sorted(_differences(fresh))
        if "--check" in sys.argv[1:]:
            if stale:
                sys.exit(
                    "Generated code is not up to date; run `make gen`:\n  " + "\n  ".join(stale)
                )
            return
        for name in stale:
            _replace(fresh / name, TARGET / name)
    print(f"{len(stale)} generated file(s) changed")


def _generate(folder: Path) -> None:
    command = [str(ROOT / ".venv/bin/buf"), "generate", "--output", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(result.stderr)
    # The stub generator writes a *_pb2_grpc.pyi for every proto. Only protos with a service need this file.
    for stub in folder.rglob("*_pb2_grpc.pyi"):
        if not stub.with_suffix(".py").exists():
            stub.unlink()


def _differences(fresh: Path) -> set[str]:
    """The files that generation would change, add or remove, relative to the client."""
    generated, present = _files(fresh), _files(TARGET)
    changed = {
        name
        for name in generated & present
        if not filecmp.cmp(fresh / name, TARGET / name, shallow=False)
    }
    return changed | (generated ^ present)


def _files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for package in PACKAGES
        for path in (folder / package).rglob("*.py*")
        if path.suffix in (".py", ".pyi")
    }


def _replace(fresh: Path, target: Path) -> None:
    if not fresh.exists():
        target.unlink()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(fresh, target)


if __name__ == "__main__":
    main()
