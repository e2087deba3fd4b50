#!/usr/bin/env bash
# The GPU check: the tests of every kernel on the GPU, compute-sanitizer on them, whole steps against the
# oracle, the bench, the race against PyTorch, and training at the paper's size. Each stage has a time limit
# and a log; a stage that fails does not stop the others. Writes RESULTS/summary.md, summary.json and logs/;
# exits with 1 if a stage failed.
set -uo pipefail
here="$(cd "$(dirname "$0")" && pwd)"

usage() {
    cat <<'END'
usage: run.sh [--device cuda|emulated] [--out FOLDER] [--python PROGRAM] [--only WORD]

  --device   cuda (default), or emulated: the same stages, small, without a GPU, to try the check itself
  --out      where to write (default: gpu-check-results beside this script)
  --python   a Python with torch, safetensors and numpy (default: python3)
  --only     only the stages whose names contain WORD
END
}

device=cuda
out="$here/gpu-check-results"
python=python3
only=""
while (($#)); do
    case "$1" in
        --device | --out | --python | --only)
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
if [[ "$device" != cuda && "$device" != emulated ]]; then
    usage >&2
    exit 2
fi
mkdir -p "$out/logs" || exit 2
out="$(cd "$out" && pwd)"
work="$(mktemp -d)" || exit 2
trap 'rm -rf "$work"' EXIT
scenerank="$here/bin/scenerank"

# ---- stages ---------------------------------------------------------------------------------------------------------

names=() results=() seconds=() notes=() figures=()

record() { # NAME RESULT SECONDS NOTE FIGURES
    names+=("$1") results+=("$2") seconds+=("$3") notes+=("$4") figures+=("$5")
    printf '%-8s %-36s %5s s  %s\n' "$2" "$1" "$3" "$4"
    write_summary
}

wanted() { [[ -z "$only" || "$1" == *"$only"* ]]; }

skip() { # NAME REASON
    if wanted "$1"; then
        record "$1" skipped 0 "$2" ""
    fi
}

# Runs a command for at most LIMIT seconds. FIGURES is a pattern of log lines for the summary, which keeps the
# last ten. Expecting `rejects` inverts the meaning of exit code 1, for a check that must fail.
stage() { # NAME LIMIT FIGURES EXPECTED COMMAND...
    local name="$1" limit="$2" pattern="$3" expected="$4" log="$out/logs/$1.log" began=$SECONDS code result note=""
    shift 4
    wanted "$name" || return 0
    printf '$ %s\n' "$*" >"$log"
    timeout --kill-after=10 "$limit" "$@" >>"$log" 2>&1 </dev/null
    code=$?
    case "$expected:$code" in
        passes:0) result=ok ;;
        rejects:1) result=ok note="rejected, as it must" ;;
        rejects:0) result=failed note="passed what is wrong" ;;
        *:124 | *:137) result=failed note="stopped after $limit s" ;;
        *) result=failed note="exit code $code" ;;
    esac
    record "$name" "$result" "$((SECONDS - began))" "$note" "$(grep -E "$pattern" "$log" | tail -10)"
    [[ "$result" == ok ]]
}

# ---- summary --------------------------------------------------------------------------------------------------------

json_string() {
    local text="$1"
    text="${text//\\/\\\\}"
    text="${text//\"/\\\"}"
    text="${text//$'\t'/\\t}"
    text="${text//$'\r'/}"
    text="$(tr -d '\000-\010\013\014\016-\037' <<<"$text")"
    printf '"%s"' "${text//$'\n'/\\n}"
}

json_lines() { # an array of the text's lines
    local line separator=""
    printf '['
    while IFS= read -r line; do
        [[ -n "$line" ]] || continue
        printf '%s' "$separator"
        json_string "$line"
        separator=", "
    done <<<"$1"
    printf ']'
}

failures() { printf '%s\n' "${results[@]}" | grep -c '^failed$'; }

write_summary() {
    local i comma line
    {
        printf '{\n  "built": %s,\n  "date": %s,\n  "device": %s,\n' "$(json_lines "$(cat "$here/built.txt")")" \
            "$(json_string "$date")" "$(json_string "$device")"
        printf '  "gpu": %s,\n  "failed": %d,\n  "stages": [' "$(json_string "$gpu")" "$(failures)"
        for i in "${!names[@]}"; do
            comma=,
            ((i)) || comma=""
            printf '%s\n    {"name": %s, "result": "%s", "seconds": %d, "note": %s, "figures": %s}' "$comma" \
                "$(json_string "${names[i]}")" "${results[i]}" "${seconds[i]}" "$(json_string "${notes[i]}")" \
                "$(json_lines "${figures[i]}")"
        done
        printf '\n  ]\n}\n'
    } >"$out/summary.json"
    {
        printf '# GPU check, %s, device %s\n\n' "$date" "$device"
        sed 's/^/- /' "$here/built.txt"
        printf -- '- GPU: %s\n- %d of %d stages failed\n\n' "$gpu" "$(failures)" "${#names[@]}"
        printf '| stage | result | s | |\n| --- | --- | --- | --- |\n'
        for i in "${!names[@]}"; do
            printf '| %s | %s | %d | %s |\n' "${names[i]}" "${results[i]}" "${seconds[i]}" "${notes[i]}"
        done
        for i in "${!names[@]}"; do
            [[ -n "${figures[i]}" ]] || continue
            printf '\n## %s\n\n~~~\n%s\n~~~\n' "${names[i]}" "${figures[i]}"
        done
    } >"$out/summary.md"
}

# ---- environment ----------------------------------------------------------------------------------------------------

date="$(date -u +%Y-%m-%dT%H:%MZ)"
gpu="none"
has() { command -v "$1" >/dev/null; }
if [[ "$device" == emulated ]]; then
    gpu="none: emulated"
    skip gpu "emulated"
elif has nvidia-smi; then
    fields=name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,power.limit
    gpu="$(nvidia-smi --query-gpu="$fields" --format=csv,noheader 2>&1 | paste -sd';')"
    stage gpu 60 'CUDA Version|Product Name|Driver Version|Throttle|Persistence|Compute Mode' passes nvidia-smi -q
else
    skip gpu "nvidia-smi is not installed"
fi
stage program 60 '^scenerank' passes "$scenerank" --version

sanitizer=""
for place in compute-sanitizer "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer"; do
    if has "$place"; then
        sanitizer="$place"
        break
    fi
done

no_oracle=""
if [[ ! -d "$here/peer" ]]; then
    no_oracle="the bundle has no oracle"
elif ! "$python" -c 'import torch, safetensors, numpy' 2>/dev/null; then
    no_oracle="$python has no torch, safetensors or numpy"
fi

# ---- kernel tests ---------------------------------------------------------------------------------------------------

# The tests interpret any value other than `cuda` as the emulator.
export SCENERANK_TEST_DEVICE="$device"
if [[ "$device" == emulated ]]; then
    export PROPTEST_CASES="${PROPTEST_CASES:-5}"
fi
mapfile -t modules <"$here/modules.txt" # PROGRAM MODULE
for line in "${modules[@]}"; do
    program="$here/bin/test-${line% *}" module="${line#* }"
    stage "test-$module" 900 '^test ' passes "$program" "$module::" --test-threads 1
done

for tool in memcheck racecheck initcheck synccheck; do
    if [[ "$device" == emulated ]]; then
        skip "$tool" "emulated: scripts/sanitize.sh does this"
    elif [[ -z "$sanitizer" ]]; then
        skip "$tool" "compute-sanitizer is not installed (it comes with the CUDA toolkit)"
    else
        # Few cases, because racecheck is several hundred times slower.
        for line in "${modules[@]}"; do
            program="$here/bin/test-${line% *}" module="${line#* }"
            stage "$tool-$module" 900 'SUMMARY|^test result|Error:|Invalid|hazard' passes env PROPTEST_CASES=4 \
                "$sanitizer" --tool "$tool" --error-exitcode 9 "$program" "$module::" --test-threads 1
        done
    fi
done

# ---- whole steps against the oracle ---------------------------------------------------------------------------------

size=(--paper)
# Wide enough that roundings in bf16 average out as at the paper's size.
[[ "$device" == cuda ]] || size=(--layers 2 --state-dim 68 --hidden-dim 72 --triples 8)
for loss in ranking triplet infonce; do
    input="$work/$loss.safetensors" inputs_made=no
    for precision in fp32 bf16x3 bf16; do
        name="step-$loss-$precision" output="$work/step.safetensors"
        wanted "$name" || continue
        if [[ -n "$no_oracle" ]]; then
            skip "$name" "$no_oracle"
            continue
        fi
        if [[ "$inputs_made" == no ]]; then
            inputs_made=yes
            stage "$name-inputs" 600 'nodes' passes "$python" "$here/peer/make_step.py" "$input" "${size[@]}" \
                --loss "$loss" --affine random
        fi
        # The dump holds the ReLU masks of the step. Limits as stated in docs/determinism.md: fp32 and bf16x3 use those
        # of the oracle; in bf16, PyTorch's autocast has errors of the same size.
        limits=()
        [[ "$precision" != bf16 ]] || limits=(--gradient-tolerance 0.15)
        stage "$name-run" 300 'loss' passes "$scenerank" step "$input" "$output" --device "$device" \
            --precision "$precision" &&
            stage "$name-check" 900 '^worst|FAIL|passed,|^loss' passes "$python" "$here/peer/check_step.py" "$output" \
                --quiet "${limits[@]}"
        rm -f "$output"
    done
    rm -f "$input"
done
# Verifies that the oracle can reject a step.
if [[ -n "$no_oracle" ]]; then
    skip oracle-rejects "$no_oracle"
elif wanted oracle-rejects; then
    spoilt="$work/spoilt.safetensors"
    stage oracle-rejects-inputs 300 'nodes' passes "$python" "$here/peer/make_step.py" "$spoilt" --masks \
        --corrupt grad.layers.1.edge.subject.linear.weight &&
        stage oracle-rejects 300 'FAIL|passed,' rejects "$python" "$here/peer/check_step.py" "$spoilt" --quiet
fi

# ---- speed ----------------------------------------------------------------------------------------------------------

bench() { # NAME ARGUMENTS...: the JSON goes to NAME.json
    local name="$1"
    shift
    wanted "$name" || return 0
    # shellcheck disable=SC2016 # the inner shell expands them
    stage "$name" 1800 '^$' passes bash -c 'exec "${@:2}" >"$1"' bash "$out/$name.json" \
        "$scenerank" bench --device "$device" --json "$@"
    figures[-1]="$(awk '
        /"name":/ { split($0, part, "\""); name = part[4] }
        /"batch_size":/ { triples = $2 + 0 }
        /"ok": false/ { print name, "at", triples, "triples is WRONG" }
        /"ms":/ && name == "step" { print name, "at", triples, "triples:", $2 + 0, "ms" }
    ' "$out/$name.json")"
    write_summary
}
for precision in fp32 bf16x3 bf16; do
    bench "bench-$precision" --precision "$precision"
    if [[ "$device" == cuda ]]; then
        bench "bench-steps-$precision" --precision "$precision" --kernel step --batch-size 16 64 256 1024
    fi
done
if [[ "$device" == cuda ]]; then
    # Measures the gain of launches that begin before their predecessors end.
    SCENERANK_SERIAL_LAUNCHES=1 bench bench-steps-bf16-serial --precision bf16 --kernel step --batch-size 16 64 256 1024
fi

variants=(eager compile graph) precisions=(fp32 tf32 bf16) where=(--triples 16 64 256 1024)
if [[ "$device" == emulated ]]; then
    variants=(eager) precisions=(fp32) where=(--cpu --triples 1 --steps 2 --warmup 1)
fi
no_race="$no_oracle"
if [[ -z "$no_race" && "$device" == cuda ]] &&
    ! "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    no_race="torch sees no GPU"
fi
for variant in "${variants[@]}"; do
    for precision in "${precisions[@]}"; do
        # One process for each, because a failed capture affects those after it.
        if [[ -n "$no_race" ]]; then
            skip "race-$variant-$precision" "$no_race"
        else
            stage "race-$variant-$precision" 1200 '^\{' passes "$python" "$here/peer/race.py" \
                --variants "$variant" --precisions "$precision" "${where[@]}"
        fi
    done
done
cat "$out"/logs/race-*.log 2>/dev/null | grep '^{' >"$out/race.jsonl" || rm -f "$out/race.jsonl"

# ---- training -------------------------------------------------------------------------------------------------------

# A synthetic collection as large as the paper's, with 31,771 anchors, and its complete training with
# validation. Then a few epochs with several seeds in fp32 and in bf16, whose validation results must be
# similar.
images=46560 network=() epochs=100 seeds=(1 2 3) seed_epochs=10
if [[ "$device" == emulated ]]; then
    images=300 network=(--layers 1 --state-width 16 --hidden-width 16) epochs=1 seeds=(1) seed_epochs=1
fi
raw="$work/raw" data="$work/train.data" data_made=no

make_data() {
    [[ "$data_made" == no ]] || return 0
    data_made=yes
    # shellcheck disable=SC2016 # the inner shell expands them
    stage "$1-data" 600 '^split|^words' passes bash -c '
        "$1" synth "$2" --images "$4" --word-width 300 && exec "$1" prepare --scene-graphs "$2/scene_graphs.json" \
            --image-data "$2/image_data.json" --captions "$2/captions.json" --glove "$2/glove.txt" --out "$3"
    ' bash "$scenerank" "$raw" "$data" "$images"
}

train() { # NAME LIMIT ARGUMENTS...: the log of its numbers goes to NAME.jsonl
    local name="$1" limit="$2"
    shift 2
    wanted "$name" || return 0
    make_data "$name"
    if [[ ! -e "$data" ]]; then
        skip "$name" "no data were made"
        return
    fi
    stage "$name" "$limit" 'INFO' passes "$scenerank" train "$data" --out "$work/run" --device "$device" \
        "${network[@]}" "$@"
    cp "$work/run/metrics.jsonl" "$out/$name.jsonl" 2>/dev/null
    rm -rf "$work/run"
}

train train-whole-bf16 1800 --precision bf16 --epochs "$epochs"
for seed in "${seeds[@]}"; do
    for precision in fp32 bf16; do
        train "train-seed-$seed-$precision" 1200 --precision "$precision" --epochs "$seed_epochs" --seed "$seed"
    done
done

# ---- verdict --------------------------------------------------------------------------------------------------------

if ((${#names[@]} == 0)); then
    echo "no stage's name contains \"$only\"" >&2
    exit 2
fi
write_summary
echo "$(failures) of ${#names[@]} stages failed; see $out/summary.md"
(($(failures) == 0))
