#!/usr/bin/env bash
# Fuzzes every reader: fuzz/run.sh [SECONDS] [READER...]. Ten minutes each by default, one process per core (JOBS) at a time. Needs
# a nightly compiler and cargo-fuzz.
# Ends with an error if a reader has a finding, whose input is in fuzz/artifacts. An input worth keeping goes to
# fuzz/inputs/READER, which a test reads. The logs are in target/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/parallel.sh

seconds="${1:-600}"
readers=("${@:2}")
if [[ ${#readers[@]} == 0 ]]; then
    readers=(scenegraphs gqa objects relationships imagedata captions wordvectors gzip arrowgraphs query options records
        datafile checkpoint npy similarity origin)
fi

# Memory faults are for Miri and the sanitizers of the kernels; coverage alone runs several times as many inputs.
export SCENERANK_CUDA_ARCHS=none
cargo +nightly fuzz build --sanitizer none readers
program="${CARGO_TARGET_DIR:-fuzz/target}/$(rustc -vV | sed -n 's/^host: //p')/release/readers"

logs=target/fuzz
mkdir -p "$logs" fuzz/artifacts
fuzz() { # READER
    local log="$logs/$1.log"
    mkdir -p "fuzz/corpus/$1" "fuzz/inputs/$1"
    if ! READER="$1" "$program" "fuzz/corpus/$1" "fuzz/inputs/$1" -artifact_prefix="fuzz/artifacts/$1-" \
        -max_total_time="$seconds" -max_len=16384 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
        >"$log" 2>&1; then
        cat "$log"
        echo "$1: FOUND"
        return 1
    fi
    echo "$1: $seconds s, $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, no finding"
}
in_parallel fuzz "${readers[@]}"
