#!/usr/bin/env bash
# Fuzzes every reader: fuzz/run.sh [SECONDS] [READER...]. Ten minutes each by default. Needs a nightly compiler and cargo-fuzz.
# Ends with an error at the first finding, whose input cargo-fuzz leaves in fuzz/artifacts. An input worth keeping goes to
# fuzz/inputs/READER, which a test reads.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds="${1:-600}"
readers=("${@:2}")
if [[ ${#readers[@]} == 0 ]]; then
    readers=(scenegraphs gqa objects relationships imagedata captions wordvectors gzip query options records datafile
        checkpoint npy similarity origin)
fi

# Memory faults are for Miri and the sanitizers of the kernels; coverage alone runs several times as many inputs.
export SCENERANK_CUDA_ARCHS=none
cargo +nightly fuzz build --sanitizer none readers
for reader in "${readers[@]}"; do
    mkdir -p "fuzz/corpus/$reader" "fuzz/inputs/$reader"
    echo "==== $reader, $seconds seconds"
    READER="$reader" cargo +nightly fuzz run --sanitizer none readers "fuzz/corpus/$reader" "fuzz/inputs/$reader" -- \
        -max_total_time="$seconds" -max_len=16384 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0
done
