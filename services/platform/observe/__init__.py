"""Logs, metrics, traces and health."""

import sys

# structlog imports rich wherever it is installed, and the command line client brings it. For traceback formats that our
# logs don't use (redaction.py), that takes 5 MB in each process and most of structlog's import time.
if "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]
    import structlog.dev  # noqa: F401

    del sys.modules["rich"]
