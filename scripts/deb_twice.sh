#!/usr/bin/env bash
# Builds the packages of the last commit in two new clones, each with its own build folder, and
# fails if a byte differs.
source "$(dirname "$0")/common.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset CARGO_TARGET_DIR RUSTFLAGS MAKELEVEL MAKEFLAGS MFLAGS
for clone in one another/deeper; do
    git clone --quiet --no-hardlinks "$ROOT" "$work/$clone"
    (cd "$work/$clone" && scripts/deb.sh build "$work/${clone%%/*}.debs" >/dev/null)
done
diff -r "$work/one.debs" "$work/another.debs" || die "two builds of the packages differ"
sha256sum "$work"/one.debs/*.deb | sed "s,$work/one.debs/,,"
