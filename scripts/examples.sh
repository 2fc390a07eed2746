#!/usr/bin/env bash
# Fetches the packages of the framework examples, those that tests of the client packages need, those
# that make keys which are imported, and a scanner, as their manifests pin them, into the build
# directory; with "clients", only those for the client packages. If a registry does not answer in
# time, the script says so and goes on: the tests that need them are then skipped, with the reason.
source "$(dirname "$0")/common.sh"

PLACE=${CARGO_TARGET_DIR:-$ROOT/target}/examples
MOST_SECONDS=180

# fetch NAME MANIFEST... -- COMMAND...: runs the command unless it was run for these manifests.
fetch() {
    local name=$1 manifests=() place sum
    shift
    while [ "$1" != -- ]; do
        manifests+=("$1")
        shift
    done
    shift
    place=$PLACE/$name
    sum=$(cat "${manifests[@]}" | cksum)
    [ "$(cat "$place/done" 2>/dev/null)" != "$sum" ] || return 0
    rm -rf "$place"
    mkdir -p "$place"
    if timeout "$MOST_SECONDS" "$@" >"$place/log" 2>&1; then
        echo "$sum" >"$place/done"
    else
        echo "the packages of $name can't be fetched: $(grep -Em 1 '^(ERROR|npm error)' "$place/log" || echo "no answer in time")" |
            tee "$place/failed" >&2
    fi
}

python_packages() { # NAME MANIFEST...
    local place=$PLACE/$1/venv
    shift
    python3 -m venv "$place"
    "$place/bin/pip" install --quiet --disable-pip-version-check --timeout 15 --retries 2 \
        $(printf -- '-r %s ' "$@")
}

node_packages() { # NAME FOLDER
    cp "$2/package.json" "$2/package-lock.json" "$PLACE/$1/"
    npm ci --prefix "$PLACE/$1" --no-audit --no-fund --ignore-scripts --fetch-timeout=15000 \
        --fetch-retries=2 --fetch-retry-mintimeout=1000 --fetch-retry-maxtimeout=5000
}

export -f python_packages node_packages
export PLACE VENV=${VENV:-${CARGO_TARGET_DIR:-$ROOT/target}/venv}

python() {
    fetch "$@" -- bash -ec "python_packages $*"
}

node() {
    fetch "$1" "$2/package-lock.json" -- bash -ec "node_packages $1 $2"
}

# Those of the tests themselves: into the tests' own environment.
tests_packages() {
    "$VENV/bin/pip" install --quiet --disable-pip-version-check --timeout 15 --retries 2 -r tests/clients/requirements.txt
}
export -f tests_packages

clients() {
    # The environment may be newer than the mark that they were fetched.
    [ "$PLACE/clients/done" -nt "$VENV/done" ] || rm -f "$PLACE/clients/done"
    fetch clients tests/clients/requirements.txt -- bash -ec tests_packages
    node clients-node tests/clients/node
}

clients
[ "${1:-}" != clients ] || exit 0
python python examples/{django,fastapi,live}/requirements.txt
python key-makers tests/makers/requirements.txt
python gitleaks tests/makers/gitleaks.txt
for name in express postgraphile tokens; do
    node "$name" "examples/$name"
done
node key-makers-node tests/makers
