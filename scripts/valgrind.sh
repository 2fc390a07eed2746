#!/usr/bin/env bash
# Runs tests under valgrind on a PostgreSQL with assertions: by default the regression suites and
# isolation specs.
#   valgrind.sh [TEST...]
source "$(dirname "$0")/common.sh"

scripts/setup.sh valgrind
PG_CONFIG=$(scripts/postgres.sh 17 checked)
make --no-print-directory install PG_CONFIG="$PG_CONFIG"
prefix=$("$PG_CONFIG" --bindir)/..
[ $# -gt 0 ] || set -- tests/test_installcheck.py

# A folder where the servers' user may write.
watched=$(mktemp -d /tmp/keysmith-valgrind-XXXXXX)
chmod 1777 "$watched"
cat >"$watched/postgres" <<END
#!/bin/sh
exec valgrind --quiet --trace-children=yes --track-origins=yes --leak-check=no --gen-suppressions=all \\
    --vgdb=no --suppressions=$prefix/valgrind.supp --log-file=$watched/%p.log $prefix/bin/postgres "\$@"
END
chmod 755 "$watched/postgres"

outcome=0
KEYSMITH_SERVER=$watched/postgres PG_CONFIG=$PG_CONFIG "$VENV/bin/pytest" "$@" || outcome=1
findings=$(find "$watched" -name '*.log' -size +0)
echo "$(find "$watched" -name '*.log' | wc -l) processes were watched"
if [ -n "$findings" ]; then
    head -n 40 $findings >&2
    die "valgrind has findings: $watched"
fi
rm -r "$watched"
exit $outcome
