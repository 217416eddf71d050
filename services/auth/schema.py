"""The metadata of the Postgres schema `auth`, to which the tables of all auth features belong."""

from sqlalchemy import MetaData

metadata = MetaData(schema="auth")
