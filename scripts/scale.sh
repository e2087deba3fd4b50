#!/usr/bin/env bash
# A synthetic collection prepared, sampled and embedded, with the peak of memory of each command: scripts/scale.sh [IMAGES]
# [FOLDER]. One million images by default; they take 9 GB of disk in FOLDER, a temporary folder by default.
#
# Fails if a command exceeds its limit. A process's peak counts the pages of mapped files that it reads, which the system may take
# back. Limits in bytes per image: `prepare` reads its temporary files with graphs, captions and sections; training holds the
# similarities' vectors; embedding holds the result. Memory of its own (sampled) has a second limit for `prepare`, from one file
# and from two in different orders.
set -euo pipefail

images="${1:-1000000}"
folder="${2:-$(mktemp -d)}"
program="${SCENERANK:-target/release/scenerank}"
mkdir -p "$folder"

# Runs a command of the program and prints its seconds and its peak, of all pages and of those of its own.
measured() { # BYTES_PER_IMAGE OWN_BYTES_PER_IMAGE ARGUMENT...
    python3 - "$images" "$program" "$@" <<'PYTHON'
import re, resource, subprocess, sys, time
(images, per_image, own_per_image), program, command = map(int, sys.argv[1:2] + sys.argv[3:5]), sys.argv[2], sys.argv[5:]
began, own = time.time(), 0
child = subprocess.Popen([program, *command], stdout=subprocess.DEVNULL)
while child.poll() is None:
    status = open(f"/proc/{child.pid}/status").read()
    own = max(own, int((re.findall(r"RssAnon:\s+(\d+)", status) or [0])[0]) / 1024)
    time.sleep(0.02)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
limit, own_limit = 256 + images * per_image / 2**20, 64 + images * own_per_image / 2**20
print(f"{command[0]:8} {time.time() - began:7.0f} s  peak {peak:6.0f} MiB  limit {limit:6.0f} MiB  "
      f"own {own:6.0f} MiB  limit {own_limit:6.0f} MiB", flush=True)
sys.exit(child.returncode or peak > limit or own > own_limit)
PYTHON
}

raw="$folder/raw"
measured 500 500 synth "$raw" --images "$images" --word-width 50 -q
# 2,000 validation images at most: their pairs are compared after the epoch.
split="$((images > 2000 ? images - 2000 : images)):1000:1000"
others=(--image-data "$raw/image_data.json" --captions "$raw/captions.json" --glove "$raw/glove.txt" --split "$split" -q)
measured 3500 200 prepare --scene-graphs "$raw/scene_graphs.json" "${others[@]}" --out "$folder/data"
python3 scripts/divide_scene_graphs.py "$raw/scene_graphs.json" "$folder/pair" --shuffle
measured 4000 200 prepare --objects "$folder/pair/objects.json" --relationships "$folder/pair/relationships.json" "${others[@]}" \
    --out "$folder/data_of_pair"
measured 8000 8000 train "$folder/data" --out "$folder/run" --epochs 1 --device cpu --layers 1 --state-width 32 \
    --hidden-width 32 --batch-size 256 -q
measured 6000 6000 embed "$folder/run" --split all --out "$folder/all.npy" --format npy --device cpu -q
