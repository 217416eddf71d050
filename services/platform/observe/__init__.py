"""Logs, metrics, traces and health."""

import sys

# structlog imports rich if it is installed, and the command-line client installs it. Our logs don't use rich's
# tracebacks (redaction.py). Its import would take 5 MB in each process and most of structlog's import time.
if "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]
    import structlog.dev  # noqa: F401

    del sys.modules["rich"]
