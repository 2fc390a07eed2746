#!/usr/bin/env bash
# Builds Debian packages, for each supported PostgreSQL below /usr/lib/postgresql
# that has its headers, or for that of PG_CONFIG.
#   deb.sh build [FOLDER]   builds them into target/deb, or into a folder
#   deb.sh majors           prints the majors
#   deb.sh control          prints debian/control, as it follows from debian/control.in
source "$(dirname "$0")/common.sh"

majors() {
    local candidate
    if [ -n "${PG_CONFIG:-}" ]; then
        candidate=$(major "$PG_CONFIG")
        [ "$("$PG_CONFIG" --bindir)" = "/usr/lib/postgresql/$candidate/bin" ] || die "$PG_CONFIG is not of a Debian package"
        echo "$candidate"
        return
    fi
    for candidate in /usr/lib/postgresql/*/bin/pg_config; do
        if has_server "$candidate"; then
            major "$candidate"
        fi
    done
}

control() {
    local major
    echo "# Made from control.in by: scripts/deb.sh control"
    sed '/^Package:/,$d' debian/control.in
    for major in $(supported | sort -n); do
        sed -n '/^Package:/,$p' debian/control.in | sed "s/PGVERSION/$major/g"
        echo
    done | sed '$d'
}

# The build folder is that of `make build`, so nothing is compiled twice. A major is compiled again
# if another pg_config names it.
build() {
    local first
    first=$(find_pg_config)
    [ "$(major "$first")" = "$1" ] || first=/usr/lib/postgresql/$1/bin/pg_config
    make --no-print-directory build PG_CONFIG="$first" >&2
}

packages() {
    local target=${CARGO_TARGET_DIR:-$ROOT/target} folder version work major file
    folder=${1:-$target/deb}
    version=$(sed -nE 's/^version = "(.*)"/\1/p' Cargo.toml | head -n 1)
    [ "$(dpkg-parsechangelog -S Version | sed 's/-[^-]*$//')" = "$version" ] ||
        die "debian/changelog has another version than Cargo.toml"
    control | diff -u debian/control - >&2 || die "debian/control is stale: scripts/deb.sh control >debian/control"

    # Outside of the clone, so that nothing is left in it, and two builds don't meet.
    work=$(mktemp -d)
    trap "rm -rf '$work'" EXIT
    mkdir -p "$work/keysmith" "$folder"
    cp -r --parents -t "$work/keysmith" Cargo.toml Makefile keysmith.control sql debian scripts docs examples/demo.sql examples/monitoring ./*.md
    for major in $MAJORS; do
        build "$major"
        install -D -m 755 "$target/release/libkeysmith.so" "$work/keysmith/debian/libraries/$major/libkeysmith.so"
        rm -f "$folder/postgresql-$major-keysmith"_*.deb
    done
    # It may be run by make, but its own makes are not part of that.
    (
        cd "$work/keysmith"
        unset MAKELEVEL MAKEFLAGS MFLAGS PG_CONFIG
        MAJORS=$MAJORS dpkg-buildpackage --no-check-builddeps --no-sign --target=binary >"$work/log" 2>&1
    ) || { cat "$work/log" >&2; die "the packages can't be built"; }
    for file in "$work"/*.deb; do
        mv "$file" "$folder/"
        echo "$folder/$(basename "$file")"
    done
}

case ${1:-} in
    build)
        MAJORS=$(majors | paste -sd' ')
        [ -n "$MAJORS" ] || die "no supported PostgreSQL below /usr/lib/postgresql has its headers"
        packages "${2:-}"
        ;;
    majors) majors ;;
    control) control ;;
    *) die "usage: deb.sh build [FOLDER] | majors | control" ;;
esac
