#!/usr/bin/env bash
# Builds for every supported major of PostgreSQL, runs clippy for it, and runs the tests on it.
#   MAJORS   the majors to test, all by default
#   TESTS    the files of tests to run, all by default
#   OLDER    a pg_config whose server has our library, to upgrade its cluster if it is older
# An installed server of a major is used if there is one; scripts/postgres.sh gets the others.
# A major that fails, or that no source has, does not stop the others.
source "$(dirname "$0")/common.sh"

read -ra majors <<<"${MAJORS:-$(supported | sort -n | paste -sd' ')}"
for major in "${majors[@]}"; do
    is_supported "$major" || die "PostgreSQL $major is not supported: $(supported | paste -sd' ')"
done
counts=$(realpath -m "${CARGO_TARGET_DIR:-target}")/release/server-tests.count

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

# The servers in which our library is, as a list for test_pg_upgrade.py: those before a major.
have_library=(${OLDER:+"$OLDER"})
older_than() {
    local server
    for server in "${have_library[@]}"; do
        [ "$(major "$server")" -ge "$1" ] || echo "$server"
    done | paste -sd:
}

failed=() untested=()
line='%-6s  %-8s  %-34s  %7s  %7s  %7s'
# shellcheck disable=SC2059
table=$(printf "$line" major version source passed skipped failed)
# shellcheck disable=SC2059
add() { table+=$'\n'$(printf "$line" "$@"); }

if [ -z "${TESTS:-}" ]; then
    make --no-print-directory test-core || failed+=("rules")
fi
for major in "${majors[@]}"; do
    if ! server=$(server_of "$major"); then
        untested+=("$major (no source)")
        add "$major" - none - - -
        continue
    fi
    say "$("$server" --version)"
    from=$(cat "${server%/bin/*}/built" 2>/dev/null || true)
    rm -f "$counts"
    # The crates without PostgreSQL are built once for all.
    KEYSMITH_MAJOR=$major KEYSMITH_OLDER_SERVERS=$(older_than "$major") make --no-print-directory -k clippy test-server PG_CONFIG="$server" || failed+=("$major")
    if [ -f "$counts" ]; then
        read -r passed skipped _ faults <"$counts"
        have_library+=("$server")
    else
        passed=- skipped=- faults="no run"
    fi
    add "$major" "$("$server" --version | cut -d' ' -f2)" "${from:-installed}" "$passed" "$skipped" "$faults"
done
printf '\n%s\n' "$table"
[ ${#untested[@]} -eq 0 ] || echo "not tested: ${untested[*]}" >&2
[ ${#failed[@]} -eq 0 ] || echo "tests fail: ${failed[*]}" >&2
[ ${#untested[@]} -eq 0 ] && [ ${#failed[@]} -eq 0 ] || exit 1
