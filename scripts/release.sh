#!/usr/bin/env bash
# Makes a release, in a clone: this one changes only when all of it has succeeded.
#   release.sh VERSION [--dry-run] [--no-builds]
#   --dry-run     leaves this clone as it is
#   --no-builds   packs only the source, without compiling or checking the code
# It puts into target/releases/VERSION what you then publish: the source for PGXN, Debian packages,
# the layout of the image volume, the notes, and the checksums of these files.
source "$(dirname "$0")/common.sh"

usage="usage: release.sh VERSION [--dry-run] [--no-builds]"
VERSION= DRY_RUN= NO_BUILDS=
for argument in "$@"; do
    case $argument in
        --dry-run) DRY_RUN=yes ;;
        --no-builds) NO_BUILDS=yes ;;
        -*) die "$usage" ;;
        *) VERSION=$argument ;;
    esac
done
[[ $VERSION =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || die "$usage"

pack_image() { # a pg_config, and its major
    make --no-print-directory image-layout PG_CONFIG="$1"
    tar --create --gzip --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" \
        --file "$RESULTS/keysmith-image-$VERSION-$2-$(uname -m).tar.gz" --directory "$CARGO_TARGET_DIR/image/$2" .
}

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}
RESULTS=$CARGO_TARGET_DIR/releases/$VERSION
! git rev-parse --quiet --verify "refs/tags/v$VERSION" >/dev/null || die "v$VERSION is tagged already"
scripts/release.py check || die "this tree can't be released"

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
git clone --quiet --no-tags --shared . "$WORK/keysmith"
git -C "$WORK/keysmith" config user.name "$(git config user.name)"
git -C "$WORK/keysmith" config user.email "$(git config user.email)"
cd "$WORK/keysmith"

scripts/release.py prepare "$VERSION"
git add --all
git commit --quiet -m "Release $VERSION"
scripts/release.py check || die "$VERSION can't be released"

rm -rf "$RESULTS"
mkdir -p "$RESULTS"
if [ -z "$NO_BUILDS" ]; then
    make --no-print-directory check-script lint
    PG_CONFIG= make --no-print-directory deb
    cp "$CARGO_TARGET_DIR/deb"/postgresql-*-keysmith_"$VERSION"-1_*.deb "$RESULTS/"
    # Image volumes are for 18 and newer: for each that is installed, or that `make test-majors` has made.
    for candidate in /usr/lib/postgresql/*/bin/pg_config "$(servers)"/*/bin/pg_config; do
        if has_server "$candidate" && [ "$(major "$candidate")" -ge 18 ]; then
            pack_image "$candidate" "$(major "$candidate")"
        fi
    done
fi
make --no-print-directory dist
cp "$CARGO_TARGET_DIR/dist/keysmith-$VERSION.zip" "$RESULTS/"
scripts/release.py notes "$VERSION" >"$RESULTS/NOTES.md"
(cd "$RESULTS" && sha256sum -- * >"$WORK/SHA256SUMS" && mv "$WORK/SHA256SUMS" .)

if [ -z "$DRY_RUN" ]; then
    cd "$ROOT"
    git fetch --quiet --no-tags "$WORK/keysmith" HEAD
    git merge --quiet --ff-only FETCH_HEAD
    git tag --annotate -m "keysmith $VERSION" "v$VERSION"
    say "keysmith $VERSION is committed and tagged. To publish it:"
    echo "  git push origin HEAD v$VERSION, and what is in $RESULTS"
else
    say "keysmith $VERSION can be released. What would be published is in $RESULTS"
fi
