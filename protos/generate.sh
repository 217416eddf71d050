#!/bin/sh
# Writes the Python stubs to $1 (default clients/python), without any network.
set -eu
cd "$(dirname "$0")/.."
out=${1:-clients/python}
rm -rf "$out/taskflow" "$out/buf"
mkdir -p "$out/taskflow" "$out/buf"
.venv/bin/buf generate --output "$out" 2>&1 | grep -v '^Writing' || true
# mypy_grpc writes a shell for files without a service.
find "$out/taskflow" "$out/buf" -name '*_pb2_grpc.pyi' | while read -r stub; do
  [ -e "${stub%i}" ] || rm "$stub"
done
touch "$out/taskflow/py.typed" "$out/buf/py.typed"
