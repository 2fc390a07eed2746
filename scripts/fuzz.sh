#!/usr/bin/env bash
# Fuzzes the parsers of outside bytes, one target after the other.
#   fuzz.sh SECONDS [TARGET...]
# A finding ends it; its input is left in fuzz/artifacts.
source "$(dirname "$0")/common.sh"

seconds=${1:-600}
shift || true
rustup run nightly cargo --version >/dev/null 2>&1 ||
    die "this needs a nightly compiler: rustup toolchain install nightly"
cargo fuzz --version >/dev/null 2>&1 ||
    die "this needs cargo-fuzz: cargo install cargo-fuzz"

cd fuzz
targets=("$@")
[ ${#targets[@]} -gt 0 ] || read -ra targets <<<"$(ls seeds | tr '\n' ' ')"
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target"
    log=$(mktemp)
    nice cargo +nightly fuzz run "$target" "corpus/$target" "seeds/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -print_final_stats=1 >"$log" 2>&1 ||
        { tail -n 40 "$log" | cut -c1-300 >&2; die "$target has a finding"; }
    echo "$target: $(sed -nE 's/^stat::number_of_executed_units: //p' "$log") executions," \
        "$(sed -nE 's/.*cov: ([0-9]+) .*/\1/p' "$log" | tail -n 1) edges, no finding"
    rm "$log"
done
