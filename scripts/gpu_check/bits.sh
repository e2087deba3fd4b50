#!/usr/bin/env bash
# Trains twice with overlapping launches and once without overlap, and compares the bits of parameters and optimizer state.
#
#   bits.sh PROGRAM DATA FOLDER TRAINING-OPTION...
#
# Prints the number of steps and the time of one. Exits with 1 if the bits differ.
set -euo pipefail
scenerank="$1" data="$2" folder="$3"
shift 3

for run in overlap again serial; do
    serial=0
    [[ "$run" != serial ]] || serial=1
    SCENERANK_SERIAL_LAUNCHES=$serial "$scenerank" train "$data" --out "$folder/$run" --quiet "$@"
    # Time of a step from the first record to the last one of an epoch; the first step also captures the graph.
    sed -n 's/.*"kind":"step","epoch":1,"step":\([0-9]*\),.*"seconds":\([0-9.]*\).*/\1 \2/p' "$folder/$run/metrics.jsonl" |
        awk -v run="$run" 'NR == 1 { step = $1; second = $2 }
            END { if ($1 > step) printf "time %s: %.1f us a step\n", run, 1e6 * ($2 - second) / ($1 - step) }'
done
steps="$(sed -n 's/.*"kind":"epoch",.*"step":\([0-9]*\),.*/\1/p' "$folder/overlap/metrics.jsonl" | tail -1)"
(cd "$folder" && sha256sum -- */last.safetensors | tee sums)
different="$(cut -d' ' -f1 "$folder/sums" | sort -u | wc -l)"
if ((different > 1)); then
    echo "bits differ after $steps steps: compare the sums"
    exit 1
fi
echo "same bits after $steps steps: two runs with overlap, one without"
