"""The schema `notification`. Ids of users, workspaces and tasks are other services', so they aren't foreign keys."""

from sqlalchemy import MetaData

metadata = MetaData(schema="notification")
