# shellcheck shell=bash
# shellcheck disable=SC2154 # run.sh and stage.sh set modules, stages, no_oracle and no_race
# Second call: the race, profiles, whole training, sanitizers. Sourced by run.sh.

# ---- race -----------------------------------------------------------------------------------------------------------

check_torch
variants=(eager compile graph) precisions=(bf16 fp32 tf32) race_sizes=(16 64 256 1024)
if [[ "$DEVICE" == emulated ]]; then
    variants=(eager) precisions=(fp32) race_sizes=(1)
fi
for precision in "${precisions[@]}"; do
    for variant in "${variants[@]}"; do
        name="race-$variant-$precision" where=(--triples "${race_sizes[@]}" --steps 50)
        [[ "$DEVICE" == cuda ]] || where=(--cpu --triples "${race_sizes[@]}" --steps 1 --warmup 0)
        if [[ -n "$no_race" ]]; then
            skip "$name" "$no_race" torch
            continue
        fi
        # A process for each, because a failed capture affects those after it.
        stage "$name" 10-90 '^\{' passes "$PYTHON" "$HERE/peer/race.py" --variants "$variant" --precisions "$precision" \
            "${where[@]}"
        for triples in "${race_sizes[@]}"; do
            measure_micros "race_${variant}_${precision}_$triples" "$(race_micros "$LOGS/$name.log" "$triples")"
        done
    done
done
cat "$LOGS"/race-*.log 2>/dev/null | grep '^{' >"$RESULTS/race.jsonl" || rm -f "$RESULTS/race.jsonl"

# ---- profiles -------------------------------------------------------------------------------------------------------

ncu=""
[[ "$DEVICE" == emulated ]] || ncu="$(toolkit ncu)"
# Within a step: the longest by the model, and one of each kind.
for kernel in batch_norm_backward linear_backward_states linear_backward_norm linear_forward_norm \
    edge_pool_backward_sums; do
    if [[ -z "$ncu" ]]; then
        skip "ncu-$kernel" "ncu is not installed, or there is no GPU"
    else
        # Where users may not read the counters, ncu fails.
        stage "ncu-$kernel" 10-60 'Duration|Throughput|Stall|Occupancy|ERR_|==ERROR==' optional "$ncu" --set full \
            --kernel-name "regex:^$kernel" --launch-skip 2 --launch-count 2 \
            "$SCENERANK" bench --device cuda --precision bf16 --kernel step --batch-size 16 --budget 1
    fi
done

# ---- training -------------------------------------------------------------------------------------------------------

# A synthetic collection as large as the paper's, with 31,771 anchors, and its complete training with validation. Then a few
# epochs with several seeds in fp32 and in bf16, whose validation results must be similar.
images=46560 network=() epochs=100 seeds=(1 2 3) seed_epochs=10
if [[ "$DEVICE" == emulated ]]; then
    images=160 network=(--layers 1 --state-width 8 --hidden-width 8) epochs=1 seeds=(1) seed_epochs=1
fi

# The records go to NAME.jsonl, also those of a training that is cut.
train() { # NAME LEAST-MOST ARGUMENTS...
    local name="$1" seconds="$2"
    shift 2
    wanted "$name" || return 0
    make_data train-data 5-120 "$images"
    if [[ -z "$TRAINING_DATA" ]]; then
        skip "$name" "there are no data" train-data
        return
    fi
    stage "$name" "$seconds" 'INFO' passes "$SCENERANK" train "$TRAINING_DATA" --out "$WORK/run" --device "$DEVICE" \
        "${network[@]}" "$@"
    cp "$WORK/run/metrics.jsonl" "$RESULTS/$name.jsonl" 2>/dev/null
    rm -rf "$WORK/run"
}

# Prints the number of epochs, the seconds of all, and the best validation's Kendall tau.
training_result() { # NAME
    awk -F'[:,}]' '/"kind":"epoch"/ {
            for (i = 1; i < NF; i++) {
                if ($i ~ /"seconds"/) seconds = $(i + 1)
                if ($i ~ /"validation_kendall"/ && $(i + 1) + 0 > tau) tau = $(i + 1)
            }
            epochs++
        }
        END { if (epochs) printf "%d epochs %.0f s tau %.4f", epochs, seconds, tau }' "$RESULTS/$1.jsonl" 2>/dev/null
}

train train-whole-bf16 30-420 --precision bf16 --epochs "$epochs"
measure training "$(training_result train-whole-bf16)"
for seed in "${seeds[@]}"; do
    for precision in bf16 fp32; do
        train "train-seed-$seed-$precision" 20-120 --precision "$precision" --epochs "$seed_epochs" --seed "$seed"
        measure "seed_${seed}_$precision" "$(training_result "train-seed-$seed-$precision")"
    done
done

# ---- ranks ----------------------------------------------------------------------------------------------------------

# Whether two GPUs can train together; otherwise says what is missing.
missing_for_ranks() {
    if [[ "$DEVICE" == emulated ]] || (($(nvidia-smi -L 2>/dev/null | grep -c '^GPU ') < 2)); then
        echo "there are not two GPUs"
    elif ! has mpirun; then
        echo "mpirun is not installed"
    elif ! "$SCENERANK" --version | grep -q '^MPI: '; then
        echo "the program has no MPI: pack it with FEATURES=mpi"
    fi
}

# Mean loss of the last epoch.
last_loss() { # NAME
    sed -n 's/.*"kind":"epoch".*"loss":\([0-9.e-]*\).*/\1/p' "$RESULTS/$1.jsonl" 2>/dev/null | tail -1
}

no_ranks="$(missing_for_ranks)"
for batch in 256 1024; do
    for ranks in 1 2; do
        name="ranks-$ranks-of-$batch"
        if [[ -n "$no_ranks" ]]; then
            skip "$name" "$no_ranks"
            continue
        fi
        make_data train-data 5-120 "$images"
        stage "$name" 20-200 'INFO' passes mpirun --oversubscribe --allow-run-as-root -n "$ranks" "$SCENERANK" train \
            "$TRAINING_DATA" --out "$WORK/run" --device cuda --precision bf16 --epochs 2 --batch-size "$batch"
        cp "$WORK/run/metrics.jsonl" "$RESULTS/$name.jsonl" 2>/dev/null
        rm -rf "$WORK/run"
        measure "ranks_${ranks}_of_$batch" "$(training_result "$name") loss $(last_loss "$name")"
    done
    # Two ranks take the steps of one; the loss of an epoch differs by roundings.
    [[ -n "$no_ranks" ]] || stage "ranks-agree-$batch" 0-5 '.' passes awk -v one="$(last_loss "ranks-1-of-$batch")" \
        -v two="$(last_loss "ranks-2-of-$batch")" \
        'BEGIN { print one, two; exit !(one > 0 && two > 0 && (one - two) ^ 2 < (0.01 * one) ^ 2) }'
done

# ---- oracle, other losses -------------------------------------------------------------------------------------------

# shellcheck source=scripts/gpu_check/oracle.sh
source "$HERE/oracle.sh"
for loss in triplet infonce; do
    check_loss "$loss" fp32 bf16x3 bf16
done

# ---- sanitizers -----------------------------------------------------------------------------------------------------

sanitizer=""
[[ "$DEVICE" == emulated ]] || sanitizer="$(toolkit compute-sanitizer)"
for tool in memcheck racecheck initcheck synccheck; do
    if [[ -z "$sanitizer" ]]; then
        skip "$tool" "compute-sanitizer is not installed, or there is no GPU"
        continue
    fi
    # Few cases, because racecheck is several hundred times slower; fewer leave a test of counts without enough draws.
    for line in "${modules[@]}"; do
        program="$HERE/bin/test-${line% *}" module="${line#* }"
        parallel_stage "$tool-$module" 20-120 'SUMMARY|^test result|Error:|Invalid|hazard' passes env PROPTEST_CASES=4 \
            "$sanitizer" --tool "$tool" --error-exitcode 9 "$program" "$module::" --test-threads 1
    done
    await_all
done
