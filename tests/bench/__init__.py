"""`make bench`: measures every row of docs/performance.md, each with its floor in the same run."""
