#!/usr/bin/env bash
# The GPU check: what a GPU must show about the kernels, in the order of its worth, in two calls of ten minutes. Every
# stage has a limit and a log; a stage that fails does not stop the others. README.md describes stages and results.
set -uo pipefail
HERE="$(cd "$(dirname "$0")" && pwd)"

usage() {
    cat <<'END_OF_USAGE'
usage: run.sh [--part 1|2] [--deadline SECONDS] [--device cuda|emulated] [--out FOLDER] [--python PROGRAM]
              [--data FILE] [--only WORD]

  --part      1 (default): correctness and the essential times; 2: the race, profiles, training, sanitizers
  --deadline  seconds until everything is over and packed (default: 600); what does not fit is "not started"
  --device    cuda (default), or emulated: the same stages, small, without a GPU, to try the check itself
  --out       where to write (default: gpu-check-results-1 or -2 beside this script)
  --python    a Python with torch, safetensors and numpy (default: python3)
  --data      a file of `scenerank prepare` to train on (default: synthetic images)
  --only      only the stages whose names contain WORD
END_OF_USAGE
}

part=1 deadline=600 device=cuda out="" python=python3 data="" only=""
while (($#)); do
    case "$1" in
        --part | --deadline | --device | --out | --python | --data | --only)
            if [[ -z "${2:-}" ]]; then
                echo "$1 needs a value" >&2
                exit 2
            fi
            declare "${1#--}=$2"
            shift 2
            ;;
        --help | -h)
            usage
            exit 0
            ;;
        *)
            usage >&2
            exit 2
            ;;
    esac
done
if [[ "$device" != cuda && "$device" != emulated || "$part" != [12] || ! "$deadline" =~ ^[1-9][0-9]{0,5}$ ]] ||
    [[ -n "$data" && ! -r "$data" ]]; then
    usage >&2
    exit 2
fi
[[ -z "$data" ]] || data="$(realpath "$data")"
out="${out:-$HERE/gpu-check-results-$part}"
mkdir -p "$out" && WORK="$(mktemp -d)" || exit 2
OUT="$(cd "$out" && pwd)"
# Results of an earlier call would look like those of this one.
rm -f "$OUT"/{results.tgz,summary.json,summary.md,essentials.txt,clocks.csv}
# Seconds that are kept for the last summary and for a stage that ignores the signal to end.
readonly RESERVE=5
PART="$part" DEVICE="$device" PYTHON="$python" DATA="$data" ONLY="$only" ENDS=$((deadline - RESERVE))
RESULTS="$WORK/results" LOGS="$WORK/results/logs" SCENERANK="$HERE/bin/scenerank"
mkdir -p "$LOGS"
# A GPU's choice between families of products is made anew, once in each call.
export XDG_CACHE_HOME="$WORK/cache"
DATE="$(date -u +%Y-%m-%dT%H:%MZ)" BUILT="$(cat "$HERE/built.txt")" GPU=none
# Processes at a time where stages run in parallel; each on a GPU has a context of its own there.
JOBS="$(nproc)"
((JOBS <= 8)) || JOBS=8
# Read by what is sourced below.
readonly HERE WORK OUT PART DEVICE PYTHON DATA ENDS RESULTS LOGS SCENERANK DATE BUILT JOBS

has() { command -v "$1" >/dev/null; }

# Prints where a tool of the CUDA toolkit is; fails if it is not installed.
toolkit() { # NAME
    command -v "$1" || command -v "${CUDA_HOME:-/usr/local/cuda}/bin/$1"
}

# shellcheck source=scripts/gpu_check/stage.sh
source "$HERE/stage.sh"

# ---- clocks ---------------------------------------------------------------------------------------------------------

clocks=""
# Logs clocks, power and the reasons of throttling twice a second, until the check ends.
log_clocks() {
    local fields=timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu,utilization.gpu reasons=clocks_throttle_reasons.active
    # Drivers differ in the name of the reasons.
    timeout 20 nvidia-smi --query-gpu="$reasons" --format=csv >/dev/null 2>&1 || reasons=clocks_event_reasons.active
    nvidia-smi --id=0 --query-gpu="$fields,$reasons" --format=csv,nounits -lms 500 >"$OUT/clocks.csv" 2>&1 &
    clocks=$!
}

# Notes clocks while the GPU was busy.
note_clocks() {
    [[ -e "$OUT/clocks.csv" ]] || return 0
    measure clocks "$(awk -F', *' '$6 + 0 > 50 { print $2, $4 }' "$OUT/clocks.csv" | sort -n |
        awk '{ mhz[NR] = $1; if ($2 > watts) watts = $2 }
            END { if (NR) printf "%d..%d MHz, %d W", mhz[1], mhz[NR], watts }')"
}

finish_check() {
    [[ -z "$clocks" ]] || kill "$clocks" 2>/dev/null
    clocks=""
    note_clocks
    write_results
    printf '\n%s in %d s; %s/results.tgz has the logs\n\n' "$(verdict)" "$SECONDS" "$OUT"
    cat "$RESULTS/essentials.txt"
}

trap 'stop_running; finish_check; exit 1' INT TERM
trap '[[ -z "$clocks" ]] || kill "$clocks" 2>/dev/null; rm -rf "$WORK"' EXIT

# ---- stages ---------------------------------------------------------------------------------------------------------

if [[ "$DEVICE" == emulated ]]; then
    GPU="none: emulated"
    skip gpu "emulated"
elif has nvidia-smi; then
    fields=name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,power.limit
    GPU="$(timeout 20 nvidia-smi --query-gpu="$fields" --format=csv,noheader 2>&1 | paste -sd';')"
    GPU="${GPU:-nvidia-smi does not answer}"
    log_clocks
    stage gpu 1-20 'CUDA Version|Product Name|Driver Version|Throttle|Persistence|Compute Mode' passes nvidia-smi -q
else
    GPU="unknown, without nvidia-smi"
    skip gpu "nvidia-smi is not installed"
fi
stage program 1-20 '^scenerank|^CUDA|^commit' passes "$SCENERANK" --version

# Sets no_oracle and no_race to the reasons why they cannot run; empty where they can.
no_oracle="" no_race=""
check_torch() {
    local ONLY="" # stages that were asked for may depend on it
    if [[ ! -d "$HERE/peer" ]]; then
        no_oracle="the bundle has no oracle"
    elif ! stage torch 5-90 '^torch' optional "$PYTHON" -c '
import numpy, safetensors, torch
print("torch", torch.__version__, "CUDA", torch.version.cuda, "GPU", torch.cuda.is_available())'; then
        no_oracle="$PYTHON cannot import torch, safetensors and numpy"
    fi
    no_race="$no_oracle"
    if [[ -z "$no_race" && "$DEVICE" == cuda ]] && ! grep -q 'GPU True' "$LOGS/torch.log"; then
        no_race="torch sees no GPU"
    fi
}

# Prints the choice of auto and its reason from a bench's JSON; nothing on a device without one.
chosen() { # NAME
    [[ ! -e "$RESULTS/$1.json" ]] || sed -n '/^  "choice": {/,/}/{ s/^ *"kernels": "\(.*\)",$/\1/p; s/^ *"reason": "\(.*\)"$/since \1/p }' \
        "$RESULTS/$1.json" | paste -sd' '
}

# Prints the time of a step in microseconds from a line of the race; nothing if there is none.
race_micros() { # LOG TRIPLES
    grep -h "\"triples\": $2," "$1" 2>/dev/null | sed -n 's/.*"ms_per_step": \([0-9.]*\).*/\1/p' | tail -1 |
        awk '{ printf "%.1f", 1000 * $1 }'
}

# Makes training data of this many synthetic images, unless there are some or the first attempt failed. Sets TRAINING_DATA.
TRAINING_DATA="$DATA"
make_data() { # NAME LEAST-MOST IMAGES
    local ONLY="" # training stages depend on it
    [[ -z "$TRAINING_DATA$(result_of "$1")" ]] || return 0
    # shellcheck disable=SC2016 # the inner shell expands them
    stage "$1" "$2" '^split' passes bash -c '
        "$1" synth "$2/raw" --images "$3" --word-width 300 && exec "$1" prepare --scene-graphs "$2/raw/scene_graphs.json" \
            --image-data "$2/raw/image_data.json" --captions "$2/raw/captions.json" --glove "$2/raw/glove.txt" \
            --out "$2/train.data"
    ' bash "$SCENERANK" "$WORK" "$3" && TRAINING_DATA="$WORK/train.data"
}

# The tests interpret any value other than `cuda` as the emulator.
export SCENERANK_TEST_DEVICE="$DEVICE"
mapfile -t modules <"$HERE/modules.txt" # PROGRAM MODULE

case "$PART" in
    1)
        # shellcheck source=scripts/gpu_check/part_1.sh
        source "$HERE/part_1.sh"
        ;;
    2)
        # shellcheck source=scripts/gpu_check/part_2.sh
        source "$HERE/part_2.sh"
        ;;
esac

# ---- verdict --------------------------------------------------------------------------------------------------------

if ((stages == 0)); then
    echo "no stage's name contains \"$ONLY\"" >&2
    exit 2
fi
finish_check
[[ "$(number_of failed)" == 0 ]] || exit 1
[[ "$(number_of cut)$(number_of "not started")" == 00 ]] || exit 3
