#!/usr/bin/env bash
# A PostgreSQL of any major that we support, built from Debian's source package into a
# folder of its own: nothing on the system changes. Prints its pg_config.
#   postgres.sh MAJOR [checked]
# `checked` has assertions, and tells valgrind what memory is whose.
# apt checks the package against Debian's signed lists. It is built only once.
source "$(dirname "$0")/common.sh"

MAJOR=${1:?usage: postgres.sh MAJOR [checked]}
KIND=${2:-}
is_supported "$MAJOR" || die "PostgreSQL $MAJOR is not supported: $(supported | paste -sd' ')"
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
# The release whose source package has it.
case $MAJOR in
    15) SUITE=bookworm ;;
    17) SUITE=trixie ;;
    18) SUITE=forky ;;
    *) die "no Debian release is known to have the source of PostgreSQL $MAJOR" ;;
esac

case $KIND in
    '') NAME=$MAJOR flags=() ;;
    checked) NAME=$MAJOR-checked flags=(--enable-cassert CFLAGS="-O1 -g -DUSE_VALGRIND") ;;
    *) die "there is no such kind: $KIND" ;;
esac

# Servers run as `postgres` if we are root, who may be unable to reach the clone.
place() {
    local target=${CARGO_TARGET_DIR:-$ROOT/target}
    mkdir -p "$target"
    if as_server_user test -x "$target" 2>/dev/null; then
        echo "$target/majors/$NAME"
    else
        local elsewhere=/var/tmp/keysmith-majors
        mkdir -p -m 755 "$elsewhere"
        [ -O "$elsewhere" ] || die "$elsewhere belongs to somebody else"
        echo "$elsewhere/$NAME"
    fi
}

# With an apt of its own: lists, cache and sources are in the work folder.
fetch() {
    mkdir -p apt/lists/partial apt/archives/partial
    echo "deb-src [signed-by=$KEYRING] ${DEBIAN_MIRROR:-http://deb.debian.org/debian} $SUITE main" >apt/sources.list
    local own=(-qq -o "Dir::State=$PWD/apt" -o "Dir::Cache=$PWD/apt" -o "Dir::Etc::sourcelist=$PWD/apt/sources.list"
        -o Dir::Etc::sourceparts=- -o "APT::Sandbox::User=$(id -un)")
    apt-get "${own[@]}" update
    apt-get "${own[@]}" source --download-only "postgresql-$MAJOR"
    tar xf "postgresql-${MAJOR}"_*.orig.tar.*
}

# Only what the tests need: no library is taken that a plain machine lacks.
compile() {
    # PostgreSQL makes its headers in a make that is nobody's part, and we may be of one.
    unset MAKELEVEL MAKEFLAGS MFLAGS
    cd postgresql-"$MAJOR"*/
    ./configure --quiet --prefix="$1" --without-readline --without-icu --without-zlib "${flags[@]}"
    make --silent -j"$(nproc)"
    make --silent -C contrib -j"$(nproc)"
    make --silent install
    make --silent -C contrib install
    cp src/tools/valgrind.supp "$1"
}

PREFIX=$(place)
if [ ! -f "$PREFIX/built" ]; then
    scripts/setup.sh postgres-source ${KIND:+valgrind} >&2
    say "Building PostgreSQL $MAJOR into $PREFIX" >&2
    mkdir -p "$PREFIX"
    rm -rf "$PREFIX/work"
    mkdir "$PREFIX/work"
    # Not followed by `||`, after which bash would go on past an error.
    set +e
    (
        set -e
        cd "$PREFIX/work"
        fetch
        compile "$PREFIX"
    ) >"$PREFIX/log" 2>&1
    outcome=$?
    set -e
    [ $outcome = 0 ] || { tail -n 20 "$PREFIX/log" >&2; die "building PostgreSQL $MAJOR failed: $PREFIX/log"; }
    rm -rf "$PREFIX/work"
    touch "$PREFIX/built"
fi
echo "$PREFIX/bin/pg_config"
