"""`make bench`: every row of docs/performance.md, each with its floor in the same run."""
