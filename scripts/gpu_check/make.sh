#!/usr/bin/env bash
# Packs the GPU check: one archive that runs without Rust and without a network (see README.md beside this
# file).
#
#   scripts/gpu_check/make.sh [--without-gpu-code]     -> target/gpu_check/scenerank-gpu-check.tar.zst
#
# Requires Rust, a C++ compiler, nvcc and zstd; includes the PyTorch oracle of ../shared/peer if it lies
# beside the checkout. Use --without-gpu-code to try the bundle with `run.sh --device emulated` without nvcc.
set -euo pipefail
cd "$(dirname "$0")/../.."
readonly MOST_BYTES=$((64 << 20))

gpu_code=yes
case "${1:-}" in
    "") ;;
    --without-gpu-code) gpu_code=no ;;
    *)
        echo "usage: $0 [--without-gpu-code]" >&2
        exit 2
        ;;
esac

cargo build --release --bin scenerank
built="$(cargo test --no-run --message-format=json --test=kernels --test=backends)"

resources=target/release/kernel_resources.csv
if [[ "$gpu_code" == yes ]] && ! grep -q ',sm_' "$resources" 2>/dev/null; then
    echo "no GPU code was built: set CUDA_HOME or NVCC, or give --without-gpu-code" >&2
    exit 1
fi

name=scenerank-gpu-check
bundle="target/gpu_check/$name"
rm -rf "$bundle"
mkdir -p "$bundle/bin"
cp scripts/gpu_check/run.sh scripts/gpu_check/README.md "$bundle/"
cp target/release/scenerank "$bundle/bin/"
for test in kernels backends; do
    program="$(sed -n "s|.*\"executable\":\"\([^\"]*/$test-[0-9a-f]*\)\".*|\1|p" <<<"$built")"
    if [[ ! -x "$program" ]]; then
        echo "the test $test was not built" >&2
        exit 1
    fi
    cp "$program" "$bundle/bin/test-$test"
done
# Modules that run on a GPU, each with its program: those of the kernels (except the tests of nvcc's output,
# which run where it was built), the whole step, and training.
{
    "$bundle/bin/test-kernels" --list | sed -n 's/::.*: test$//p' | sort -u |
        grep -vx -e machine_code -e occupancy | sed 's/^/kernels /'
    printf 'backends %s\n' cuda_step training_set
} >"$bundle/modules.txt"
strip "$bundle"/bin/*
if [[ -d ../shared/peer ]]; then
    mkdir "$bundle/peer"
    cp ../shared/peer/*.py ../shared/peer/README.md "$bundle/peer/"
else
    echo "../shared/peer is not there: the bundle has no oracle and no race"
fi

# Description of the build, and its requirements.
glibc="$(objdump -T "$bundle"/bin/* | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -1)"
{
    echo "commit $(git rev-parse HEAD)$([[ -z "$(git status --porcelain)" ]] || echo ', with changes')"
    echo "built $(date -u +%Y-%m-%dT%H:%MZ) with $(rustc --version)"
    echo "kernels for $(cut -d, -f2 "$resources" 2>/dev/null | grep -o 'sm_[0-9a-z]*' | sort -Vu | paste -sd' ')"
    echo "needs $(uname -m) Linux with ${glibc/_/ } or later"
} >"$bundle/built.txt"
[[ ! -e "$resources" ]] || cp "$resources" "$bundle/"

archive="$bundle.tar.zst"
# Every program contains the same kernels; a long window lets the compressor find the repetitions.
tar -C target/gpu_check -c "$name" | zstd -q -T0 -9 --long=27 -f -o "$archive"
bytes="$(stat -c %s "$archive")"
if ((bytes > MOST_BYTES)); then
    echo "$archive: $bytes bytes, more than $MOST_BYTES" >&2
    exit 1
fi
cat "$bundle/built.txt"
echo "$archive: $((bytes >> 20)) MiB"
