#!/usr/bin/env bash
# Compares the kernels' PTX with the emulator bit for bit. The PTX is compiled without contraction to fused multiply-adds, as
# the emulator is, so that what still differs has another reason.
#
#   scripts/compare_ptx.sh [ARCHITECTURE]      such as 80; default: 90a
#
# Requires nvcc (NVCC, or CUDA_HOME, or PATH), Rust and a C++ compiler. Prints the number of launches with the emulator's
# bits. A kernel with other bits fails, but for the loss, whose exp and log1p are those of two libraries.
set -euo pipefail
cd "$(dirname "$0")/.."

architecture="${1:-90a}"
nvcc="${NVCC:-${CUDA_HOME:+$CUDA_HOME/bin/nvcc}}"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
for file in kernels/*.cu; do
    "${nvcc:-nvcc}" -ptx -std=c++17 -O3 -fmad=false -lineinfo -Ikernels "-arch=compute_$architecture" \
        -o "$folder/$(basename "$file" .cu).ptx" "$file"
done
SCENERANK_PTX_DIR="$folder" SCENERANK_PTX_BITS=1 cargo test --test kernels -- --nocapture \
    interpreter::agreement::every_kernel_agrees_with_the_reference_and_the_emulator
