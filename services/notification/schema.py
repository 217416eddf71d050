"""The Postgres schema `notification`. It has no foreign keys to users and tasks, which belong to other services."""

from sqlalchemy import MetaData

metadata = MetaData(schema="notification")
