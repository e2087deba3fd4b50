#!/usr/bin/env bash
# Runs the tests of the emulated kernels under AddressSanitizer and UBSan. Needs g++ and its sanitizer libraries; an
# ordinary build afterwards builds the crate again.
set -euo pipefail
cd "$(dirname "$0")/.."

library="$("${CXX:-g++}" -print-file-name=libasan.so)"
if [[ ! -e "$library" ]]; then
    echo "skipped: ${CXX:-g++} has no AddressSanitizer library"
    exit 0
fi
tests=(adam batch_norm edge_hidden edge_pool embedding l2_normalise linear readout_loss top_k cuda_step cuda_runtime)
export SCENERANK_SANITIZE=1
# Built before the sanitizer is loaded into everything: compilers leak on purpose and would be stopped for it.
cargo test --no-run "${tests[@]/#/--test=}"
cargo test --no-run --message-format=json "${tests[@]/#/--test=}" 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' |
    while read -r program; do
        # The fibers' stacks come and go, and Rust's test harness keeps some memory until the end.
        LD_PRELOAD="$library" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 "$program"
    done
