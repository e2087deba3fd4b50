#!/usr/bin/env bash
# Packs the GPU check: one archive that runs without Rust and without a network (see README.md beside this
# file).
#
#   scripts/gpu_check/make.sh [--without-gpu-code]     -> target/gpu_check/scenerank-gpu-check.tar.xz
#
# Requires Rust, a C++ compiler, nvcc and xz; includes the PyTorch oracle of ../shared/peer if it lies beside
# the checkout. SCENERANK_CUDA_ARCHS names other architectures than 80 and 90a. The program is that of the profile
# `profiling`, whose kernels have line tables; PROFILE=dev packs the one of the tests' profile. FEATURES=mpi packs a program
# that trains on several GPUs. Use --without-gpu-code to try the bundle with `run.sh --device emulated` without nvcc.
set -euo pipefail
cd "$(dirname "$0")/../.."
readonly MOST_BYTES=$((45 << 20))
export SCENERANK_CUDA_ARCHS="${SCENERANK_CUDA_ARCHS:-80,90a}"

gpu_code=yes
case "${1:-}" in
    "") ;;
    --without-gpu-code) gpu_code=no ;;
    *)
        echo "usage: $0 [--without-gpu-code]" >&2
        exit 2
        ;;
esac

features=()
[[ -z "${FEATURES:-}" ]] || features=(--features "$FEATURES")
built="$(cargo build "${features[@]}" --profile "${PROFILE:-profiling}" --message-format=json --bin scenerank)"
built+=$'\n'"$(cargo test --no-run --message-format=json --test=kernels --test=backends)"
# Prints the path of a program whose file has this name, as a regular expression.
program() { # NAME
    local path
    path="$(sed -n "s|.*\"executable\":\"\([^\"]*/$1\)\".*|\1|p" <<<"$built" | tail -1)"
    if [[ ! -x "$path" ]]; then
        echo "$1 was not built" >&2
        return 1
    fi
    echo "$path"
}

scenerank="$(program scenerank)"
resources="$(dirname "$scenerank")/kernel_resources.csv"
if [[ "$gpu_code" == yes ]] && ! grep -q ',sm_' "$resources" 2>/dev/null; then
    echo "no GPU code was built: set CUDA_HOME or NVCC, or give --without-gpu-code" >&2
    exit 1
fi

name="scenerank-gpu-check"
bundle="target/gpu_check/$name"
rm -rf "$bundle"
mkdir -p "$bundle/bin"
cp scripts/gpu_check/{run,stage,part_1,part_2,oracle,bits}.sh scripts/gpu_check/{README.md,bench.awk,expected.txt} "$bundle/"
cp "$scenerank" "$bundle/bin/"
for test in kernels backends; do
    path="$(program "$test-[0-9a-f]*")"
    cp "$path" "$bundle/bin/test-$test"
done
# Modules that run on a GPU, each with its program: those of the kernels, the whole step, and training. Tests of
# nvcc's output, of argument layouts and of the PTX interpreter need no GPU; they run where the program is built.
{
    "$bundle/bin/test-kernels" --list | sed -n 's/::.*: test$//p' | sort -u |
        grep -vx -e argument_layout -e machine_code -e occupancy -e interpreter | sed 's/^/kernels /'
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
    echo "needs $(uname -m) Linux with ${glibc/_/ } or later, bash and xz"
} >"$bundle/built.txt"
[[ ! -e "$resources" ]] || cp "$resources" "$bundle/"

archive="$bundle.tar.xz"
# Every program contains the same kernels. One block and a long dictionary let the compressor find the repetitions.
tar -C target/gpu_check -c "$name" | xz -T1 --lzma2=preset=9,dict=128MiB >"$archive"
bytes="$(stat -c %s "$archive")"
if ((bytes > MOST_BYTES)); then
    echo "$archive: $bytes bytes, more than $MOST_BYTES" >&2
    exit 1
fi
cat "$bundle/built.txt"
echo "$archive: $(((bytes + (1 << 20) - 1) >> 20)) MiB"
