#!/bin/sh
# Adds the secrets that docker-compose.yml needs to .env, each once. Run it in the folder of docker-compose.yml.
set -eu
umask 077
touch .env
add() {
  grep -q "^$1=" .env || printf '%s=%s%s\n' "$1" "$2" "$(od -An -N 24 -tx1 /dev/urandom | tr -d ' \n')" >> .env
}
add POSTGRES_PASSWORD ""
add POSTGRES_OWNER_PASSWORD ""
add POSTGRES_APP_PASSWORD ""
# Begins with a letter, as NATS would take digits for a number.
add NATS_PASSWORD n
add TASKFLOW_TOKEN_SECRET ""
add TASKFLOW_SERVICE_SECRET ""
