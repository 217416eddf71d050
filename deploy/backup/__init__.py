"""Backups of the embedded stack: made while it runs, restored into an empty data folder (docs/adr/0010)."""
