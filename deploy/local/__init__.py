"""The embedded stack: every server and service of TaskFlow on one machine, supervised by one process.

`python -m deploy.local` runs it in the terminal; `deploy.local.stack.running_stack` runs it inside a test or a script.
"""
