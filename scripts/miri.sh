#!/usr/bin/env bash
# Runs the tests of the rules under Miri, each property with a few cases: it is slow.
source "$(dirname "$0")/common.sh"

cargo +nightly miri --version >/dev/null 2>&1 ||
    die "this needs Miri: rustup toolchain install nightly --component miri"
# Proptest looks for its own files.
MIRIFLAGS=-Zmiri-disable-isolation PROPTEST_CASES=${PROPTEST_CASES:-4} \
    cargo +nightly miri test -p keysmith-core --lib
