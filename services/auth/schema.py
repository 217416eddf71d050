"""The Postgres schema `auth`: the metadata that the tables of all its features belong to."""

from sqlalchemy import MetaData

metadata = MetaData(schema="auth")
