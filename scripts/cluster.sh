#!/usr/bin/env bash
# A private cluster under target/, for the demo and for trying things out.
#   cluster.sh start | stop | status | where
source "$(dirname "$0")/common.sh"

PG_CONFIG=$(find_pg_config) || die "no PostgreSQL found; run make setup"
BIN=$("$PG_CONFIG" --bindir)
PORT=28815
LINK=$ROOT/target/cluster

# The server's user may be unable to reach target/, for example in root's home, and the path of a
# Unix socket must be short. If need be, the cluster is in /tmp, and target/cluster points to it.
place() {
    mkdir -p "$ROOT/target"
    if [ -e "$LINK" ]; then
        readlink -f "$LINK"
    elif [ ${#LINK} -le 80 ] && as_server_user test -x "$ROOT/target" 2>/dev/null; then
        mkdir -p "$LINK"
        echo "$LINK"
    else
        local elsewhere
        elsewhere=$(mktemp -d /tmp/keysmith-cluster.XXXXXX)
        chmod 755 "$elsewhere"
        ln -s "$elsewhere" "$LINK"
        echo "$elsewhere"
    fi
}

is_running() { as_server_user "$BIN/pg_ctl" -D "$1/data" status >/dev/null 2>&1; }

start() {
    local dir
    dir=$(place)
    [ "$(id -u)" != 0 ] || chown postgres "$dir"
    if [ ! -f "$dir/data/PG_VERSION" ]; then
        as_server_user "$BIN/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 >/dev/null
        as_server_user tee -a "$dir/data/postgresql.conf" >/dev/null <<EOF
port = $PORT
listen_addresses = ''
unix_socket_directories = '$dir'
shared_preload_libraries = 'keysmith'
EOF
    fi
    # A rebuilt library is loaded only after a restart.
    is_running "$dir" && stop
    as_server_user "$BIN/pg_ctl" -D "$dir/data" -l "$dir/server.log" -w start >/dev/null ||
        { tail "$dir/server.log" >&2; die "the cluster did not start"; }
}

stop() {
    [ -e "$LINK" ] || return 0
    local dir
    dir=$(place)
    is_running "$dir" || return 0
    as_server_user "$BIN/pg_ctl" -D "$dir/data" -m fast -w stop >/dev/null
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    status) is_running "$(place)" && echo running || echo stopped ;;
    where) echo "-h $(place) -p $PORT -U postgres" ;;
    *) die "usage: cluster.sh start | stop | status | where" ;;
esac
