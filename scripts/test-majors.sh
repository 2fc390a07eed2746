#!/usr/bin/env bash
# Builds for every supported major of PostgreSQL, and runs every test on it.
#   MAJORS   the majors to test, all by default
# It uses an installed server of a major if there is one, and builds the others.
source "$(dirname "$0")/common.sh"

read -ra majors <<<"${MAJORS:-$(supported | sort -n | paste -sd' ')}"

server_of() {
    local candidate
    for candidate in "${PG_CONFIG:-}" "/usr/lib/postgresql/$1/bin/pg_config"; do
        if [ -n "$candidate" ] && has_server "$candidate" && [ "$(major "$candidate")" = "$1" ]; then
            echo "$candidate"
            return
        fi
    done
    scripts/postgres.sh "$1"
}

make --no-print-directory test-core
failed=() older=
for major in "${majors[@]}"; do
    is_supported "$major" || die "PostgreSQL $major is not supported: $(supported | paste -sd' ')"
    server=$(server_of "$major")
    say "$("$server" --version)"
    # pg_upgrade is tested from each older major, in which our library is now installed. The
    # crates without PostgreSQL are built once for all.
    KEYSMITH_MAJOR=$major KEYSMITH_OLDER_SERVERS=$older make --no-print-directory test-server PG_CONFIG="$server" || failed+=("$major")
    older=$older${older:+:}$server
done
[ ${#failed[@]} -eq 0 ] || die "tests fail on PostgreSQL ${failed[*]}"
say "Every test passes on PostgreSQL ${majors[*]}"
