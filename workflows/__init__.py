"""Temporal workflows: definitions, the activities they call, and the process that runs them."""
