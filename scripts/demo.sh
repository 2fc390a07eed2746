#!/usr/bin/env bash
# Shows the main job: mint, verify, refuse, revoke. Then a ledger.
source "$(dirname "$0")/common.sh"

PSQL=$("$(find_pg_config)" --bindir)/psql
scripts/cluster.sh start
read -ra WHERE <<<"$(scripts/cluster.sh where)"

"$PSQL" -X -q "${WHERE[@]}" -d postgres -c 'DROP DATABASE IF EXISTS demo' -c 'CREATE DATABASE demo'
"$PSQL" -X -q "${WHERE[@]}" -d demo -v ON_ERROR_STOP=1 -f examples/demo.sql

say "The cluster is running. Connect with"
echo "  $PSQL ${WHERE[*]} demo"
echo "and end it with"
echo "  make stop"
