#!/usr/bin/env bash
# A synthetic collection prepared, sampled and embedded, with the peak of memory of each command: scripts/scale.sh [IMAGES]
# [FOLDER]. One million images by default; they take 6 GB of disk in FOLDER, a temporary folder by default.
#
# Fails if a command exceeds its limit. A process's peak counts the pages of mapped files that it reads, which the system may take
# back. Limits in bytes per image: `prepare` reads its temporary files with graphs, captions and sections; training holds the
# similarities' vectors; embedding holds the result.
set -euo pipefail

images="${1:-1000000}"
folder="${2:-$(mktemp -d)}"
program="${SCENERANK:-target/release/scenerank}"
mkdir -p "$folder"

# Runs a command of the program and prints its seconds and its peak.
measured() { # BYTES_PER_IMAGE ARGUMENT...
    python3 - "$images" "$program" "$@" <<'PYTHON'
import resource, subprocess, sys, time
images, program, per_image, command = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]
began = time.time()
subprocess.run([program, *command], check=True, stdout=subprocess.DEVNULL)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
limit = 256 + images * per_image / 2**20
print(f"{command[0]:8} {time.time() - began:7.0f} s  peak {peak:6.0f} MiB  limit {limit:6.0f} MiB", flush=True)
sys.exit(peak > limit)
PYTHON
}

raw="$folder/raw"
measured 500 synth "$raw" --images "$images" --word-width 50 -q
# 2,000 validation images at most: their pairs are compared after the epoch.
measured 3500 prepare --scene-graphs "$raw/scene_graphs.json" --image-data "$raw/image_data.json" \
    --captions "$raw/captions.json" --glove "$raw/glove.txt" --split "$((images > 2000 ? images - 2000 : images)):1000:1000" \
    --out "$folder/data" -q
measured 8000 train "$folder/data" --out "$folder/run" --epochs 1 --device cpu --layers 1 --state-width 32 \
    --hidden-width 32 --batch-size 256 -q
measured 6000 embed "$folder/run" --split all --out "$folder/all.npy" --format npy --device cpu -q
