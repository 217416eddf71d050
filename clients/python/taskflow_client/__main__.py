"""`python -m taskflow_client` is the `taskflow` command."""

import sys

from taskflow_client.cli import main

sys.exit(main())
