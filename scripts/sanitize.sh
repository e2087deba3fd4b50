#!/usr/bin/env bash
# Runs the tests of the emulated kernels under AddressSanitizer and UBSan, and the emulator's own tests, whose planted
# errors must be found. Needs g++ (or CXX) with its sanitizer libraries. Builds into target/sanitize, so that the ordinary
# build stays as it is; PROPTEST_CASES is the number of cases of each property (4).
set -euo pipefail
cd "$(dirname "$0")/.."

library="$("${CXX:-g++}" -print-file-name=libasan.so)"
if [[ ! -e "$library" ]]; then
    echo "${CXX:-g++} has no AddressSanitizer library: install the one of its version (such as libasan8)" >&2
    exit 1
fi
# All tests of kernels, and the whole step.
mapfile -t tests < <(grep -l '^mod kernel_support;' tests/*.rs | xargs -n 1 basename -s .rs)
tests+=(cuda_step)
export SCENERANK_SANITIZE=1 PROPTEST_CASES="${PROPTEST_CASES:-4}" CARGO_TARGET_DIR=target/sanitize
# The kernels are optimised all the same; what is in Rust here only prepares and compares, and builds twice as fast so.
export CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=none CARGO_INCREMENTAL=0
# Built before the sanitizer is loaded into everything: compilers leak on purpose and would be stopped for it.
built="$(cargo test --no-run --message-format=json "${tests[@]/#/--test=}" --test=emulator)"
program() { # of a test, as cargo named it
    sed -n "s|.*\"executable\":\"\([^\"]*/$1-[0-9a-f]*\)\".*|\1|p" <<<"$built"
}
"$(program emulator)" # builds programs of its own with the sanitizers
for test in "${tests[@]}"; do
    # The fibers' stacks come and go, and Rust's test harness keeps some memory until the end.
    LD_PRELOAD="$library" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 "$(program "$test")"
done
