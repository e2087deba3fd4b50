# shellcheck shell=bash
# shellcheck disable=SC2154 # run.sh sets no_oracle
# Whole steps against the float64 oracle. Sourced by the parts after `check_torch`.

size=(--paper)
# Wide enough that roundings in bf16 average out as at the paper's size.
[[ "$DEVICE" == cuda ]] || size=(--layers 2 --state-dim 68 --hidden-dim 72 --triples 8)

# Runs a step of a loss in each format, then checks all of them in parallel. The dump holds the ReLU masks of the step.
# Limits as stated in docs/determinism.md: fp32 and bf16x3 use those of the oracle; in bf16, PyTorch's autocast has errors
# of the same size.
check_loss() { # LOSS PRECISION...
    local loss="$1" precision input="$WORK/$1.safetensors" limits
    shift
    if [[ -n "$no_oracle" ]]; then
        skip "oracle-$loss" "$no_oracle" torch
        return
    fi
    wanted "oracle-$loss" || return 0
    stage "oracle-$loss-inputs" 10-90 'nodes' passes "$PYTHON" "$HERE/peer/make_step.py" "$input" "${size[@]}" \
        --loss "$loss" --affine random || return 0
    for precision; do
        stage "oracle-$loss-$precision-run" 5-40 'loss' passes "$SCENERANK" step "$input" "$WORK/$precision.dump" \
            --device "$DEVICE" --precision "$precision"
    done
    for precision; do
        limits=()
        [[ "$precision" != bf16 ]] || limits=(--gradient-tolerance 0.15)
        [[ ! -e "$WORK/$precision.dump" ]] ||
            parallel_stage "oracle-$loss-$precision" 10-150 '^worst|FAIL|passed,|^loss' passes \
                "$PYTHON" "$HERE/peer/check_step.py" "$WORK/$precision.dump" --quiet "${limits[@]}"
    done
    await_all
    for precision; do
        measure "oracle_${loss}_$precision" "$(result_of "oracle-$loss-$precision")"
    done
    rm -f "$input" "$WORK"/*.dump
}
