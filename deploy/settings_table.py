"""Writes docs/configuration.md from the settings: `python -m deploy.settings_table`. With `--check`, only compares."""

import sys
from pathlib import Path

from pydantic import SecretStr

from services.platform.config import PREFIX, Settings

FILE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"

# The first setting of each section → the heading of that section, in the order of config.py.
_PARTS = {
    "environment": "General",
    "host": "Where things listen",
    "database_url": "Where things are",
    "service_tls_ca": "TLS between our processes",
    "token_secret": "Secrets and sessions",
    "reflection": "Processes",
    "heartbeat_interval": "Streams",
    "relay_interval": "Events",
    "retention_interval": "Retention",
    "enrich_debounce": "Workflows",
    "ai_base_url": "AI",
    "smtp_host": "Mail",
}
_HEAD = """\
# Configuration

Every process reads these environment variables once, when it starts. It exits with one sentence for each wrong value.
An empty variable counts as unset. Times are in seconds, sizes in bytes.

<!-- Made from services/platform/config.py by `python -m deploy.settings_table`. -->
"""
_TRACES = """
## Traces

Off by default. They need the extra `otel` (`pip install taskflow-server[otel]`) and the standard variables of
OpenTelemetry. The ones below switch traces on or off; the others (sampler, headers, batches, limits) work as well.

| Variable | Meaning |
|---|---|
| `OTEL_EXPORTER_OTLP_ENDPOINT` | The collector, such as `http://localhost:4317`. Switches traces on. |
| `OTEL_TRACES_EXPORTER` | `otlp`, `console` or another installed exporter switches traces on, `none` off. |
| `OTEL_SDK_DISABLED` | `true` switches traces off. |
| `OTEL_SERVICE_NAME` | Unset: `taskflow-auth`, `taskflow-task` and so on. |
"""


def document() -> str:
    return _HEAD + "".join(_rows()) + _TRACES


def _rows() -> list[str]:
    rows = []
    for name, field in Settings.model_fields.items():
        if name in _PARTS:
            rows.append(f"\n## {_PARTS[name]}\n\n| Variable | Default | Meaning |\n|---|---|---|\n")
        meaning = (field.description or "").replace("\n", " ").replace("|", "\\|")
        rows.append(f"| `{PREFIX}{name.upper()}` | {_shown(field.default)} | {meaning} |\n")
    return rows


def _shown(default: object) -> str:
    match default:
        case None | SecretStr():
            return ""
        case bool():
            return f"`{str(default).lower()}`"
        case tuple():
            return f"`{','.join(map(str, default))}`"
        case _:
            return f"`{default}`"


def main() -> None:
    if "--check" not in sys.argv[1:]:
        FILE.write_text(document())
    elif not FILE.exists() or FILE.read_text() != document():
        sys.exit(f"{FILE.name} is out of date; run `python -m deploy.settings_table`")


if __name__ == "__main__":
    main()
