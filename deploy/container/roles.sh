#!/bin/sh
# Makes the accounts of TaskFlow when the database is made. For a database that is older than these accounts:
# docker compose exec postgres sh /docker-entrypoint-initdb.d/roles.sh
set -eu
# In the environment, because command lines are public on a machine.
export PGOPTIONS="-c taskflow.owner_password=$OWNER_PASSWORD -c taskflow.app_password=$APP_PASSWORD"
psql --quiet --set ON_ERROR_STOP=1 --single-transaction --username taskflow --dbname taskflow \
  --file "${ROLES_SQL:-/etc/taskflow/roles.sql}"
