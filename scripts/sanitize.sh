#!/usr/bin/env bash
# Runs tests of the emulated kernels under AddressSanitizer and UBSan. Each module runs in a process of its
# own, with one process per core (JOBS) at a time.
#
#   scripts/sanitize.sh [MODULE...]      such as `edge_pool linear cuda_step`; without one, all modules
#
# All modules are those of tests/kernels, the whole step of tests/backends (cuda_step), and the emulator's own
# tests, whose planted errors must be detected. Requires g++ (or CXX) with its sanitizer libraries. Builds
# into target/sanitize, so that the ordinary build is not affected; the logs are there too. PROPTEST_CASES is
# the number of cases of each property (4).
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/parallel.sh

read -ra compiler <<<"${CXX:-g++}"
library="$("${compiler[@]}" -print-file-name=libasan.so)"
if [[ ! -e "$library" ]]; then
    echo "${CXX:-g++} has no AddressSanitizer library: install the one of its version (such as libasan8)" >&2
    exit 1
fi
export SCENERANK_SANITIZE=1 PROPTEST_CASES="${PROPTEST_CASES:-4}" CARGO_TARGET_DIR=target/sanitize
# Only the kernels are optimised. The Rust code here merely prepares and compares, and builds twice as fast
# without it.
export CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=none CARGO_INCREMENTAL=0
# Built before the sanitizer is preloaded: compilers leak memory on purpose and would be stopped for it.
built="$(cargo test --no-run --message-format=json --test=kernels --test=backends --test=emulator)"
program() { # of a test binary, as cargo named it
    sed -n "s|.*\"executable\":\"\([^\"]*/$1-[0-9a-f]*\)\".*|\1|p" <<<"$built"
}
kernels="$(program kernels)" backends="$(program backends)" emulator="$(program emulator)"

# The stacks of the fibers come and go, and Rust's test harness keeps some memory until the end.
sanitized=(env LD_PRELOAD="$library" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1)
# The longest modules come first. The tests of nvcc's output are not part of this build.
kernel_modules="$("${sanitized[@]}" "$kernels" --list | sed -n 's/::.*: test$//p' | sort -u |
    grep -vx -e machine_code -e occupancy)"
read -ra modules <<<"cuda_step emulator ${kernel_modules//$'\n'/ }"
for module in "$@"; do
    if [[ " ${modules[*]} " != *" $module "* ]]; then
        echo "no module $module; there are: ${modules[*]}" >&2
        exit 2
    fi
done
if (($#)); then
    modules=("$@")
fi

logs="$CARGO_TARGET_DIR/logs"
mkdir -p "$logs"
run() { # MODULE: its tests, with a log
    local log="$logs/$1.log" began=$SECONDS command
    case "$1" in
        emulator) command=("$emulator") ;; # builds programs of its own with the sanitizers
        cuda_step) command=("${sanitized[@]}" "$backends" cuda_step::) ;;
        *) command=("${sanitized[@]}" "$kernels" "$1::") ;;
    esac
    if ! "${command[@]}" >"$log" 2>&1; then
        cat "$log"
        echo "$1 FAILED"
        return 1
    fi
    echo "$1: $((SECONDS - began)) s, $(grep '^test result' "$log")"
}
in_parallel run "${modules[@]}"
