# Sourced by the other scripts: paths, and the user that runs servers.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# The pg_config of a server with its headers: the one given, or Debian's newest.
find_pg_config() {
    if [ -n "${PG_CONFIG:-}" ]; then
        command -v "$PG_CONFIG" || die "PG_CONFIG=$PG_CONFIG is not a program"
        return
    fi
    local candidate
    for candidate in "$(command -v pg_config || true)" \
        $(ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -rV); do
        if has_server "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# Whether a pg_config belongs to a supported server whose headers are installed.
has_server() {
    [ -x "$1" ] && [ -f "$("$1" --includedir-server)/postgres.h" ] &&
        [ -x "$("$1" --bindir)/initdb" ] && is_supported "$(major "$1")"
}

# PostgreSQL's major version, as in the crate's features: 15.
major() { "$1" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/'; }

supported() { sed -nE 's/^pg([0-9]+) = .*/\1/p' "$ROOT/Cargo.toml"; }
is_supported() { supported | grep -qx "$1"; }

# PostgreSQL refuses to run as root, so our servers then run as `postgres`.
as_server_user() {
    if [ "$(id -u)" = 0 ]; then
        # Run it in a folder that this user can reach: the clone may be in root's home.
        (cd / && runuser -u postgres -- "$@")
    else
        "$@"
    fi
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root: $*"
    fi
}

# The folder of the servers that postgres.sh gets. If we are root, servers run as `postgres`, which
# may be unable to reach the clone.
servers() {
    local target=${CARGO_TARGET_DIR:-$ROOT/target}
    if [ -n "${KEYSMITH_SERVERS:-}" ]; then
        echo "$KEYSMITH_SERVERS"
        return
    fi
    mkdir -p "$target"
    if as_server_user test -x "$target" 2>/dev/null; then
        echo "$target/majors"
    else
        # Only root can write there, so nobody else can put a server there for root to run.
        echo /var/cache/keysmith-majors
    fi
}
