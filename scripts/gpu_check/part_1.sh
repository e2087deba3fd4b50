# shellcheck shell=bash
# shellcheck disable=SC2154 # run.sh and stage.sh set modules, stages, no_oracle and no_race
# First call: is it right, and what decides the next work. Sourced by run.sh.

# ---- smoke ----------------------------------------------------------------------------------------------------------

# Numbers of triples, and their names among the essentials. The small network on the emulator.
step_sizes=(16 64 256 1024) step_names=(16 64 256 1024) few=16 many=1024 heads=1324
of_heads="relu(norm([1728, 512])) -> 1324, heads"
if [[ "$DEVICE" == emulated ]]; then
    step_sizes=(1 2) step_names=(16 1024) few=1 many=2 heads=188 of_heads="relu(norm([108, 72])) -> 188, heads"
fi
bench smoke-step 5-60 --precision bf16 --kernel step --batch-size "$few" --budget 20
measure_micros smoke "$(micros smoke-step step "$few" layers)"

# ---- families of products -------------------------------------------------------------------------------------------

# Every product by wgmma beside the same by mma.sync. Before, the device checks itself; its choice stands in the report.
bench_of auto families 10-150 --precision bf16 --kernel linear --batch-size "$few" --budget 20
bench_of auto families-bf16x3 10-150 --precision bf16x3 --kernel linear --batch-size "$few" --budget 20
measure choice "$(chosen families)"
measure choice_bf16x3 "$(chosen families-bf16x3)"
for family in mma wgmma; do
    for kernel in linear_forward linear_backward; do
        measure_kernel "heads_${kernel#linear_}_$family" families "$kernel" "$few" "by $family: $of_heads"
    done
done

# ---- kernel tests ---------------------------------------------------------------------------------------------------

# A process for each module: a fault of one kernel then fails one module.
export PROPTEST_CASES="${PROPTEST_CASES:-4}"
ok_before="$(number_of ok)" stages_before=$stages
for line in "${modules[@]}"; do
    program="$HERE/bin/test-${line% *}" module="${line#* }"
    parallel_stage "test-$module" 5-120 '^test |panicked' passes "$program" "$module::" --test-threads 1
done
await_all
((stages == stages_before)) || measure tests "$(($(number_of ok) - ok_before)) of $((stages - stages_before)) ok"

# ---- bits -----------------------------------------------------------------------------------------------------------

# Some hundred steps: an epoch of 4,099 anchors.
images=6000 network=()
if [[ "$DEVICE" == emulated ]]; then
    images=160 network=(--layers 1 --state-width 8 --hidden-width 8)
fi
if wanted bits-; then
    make_data bits-data 3-60 "$images"
    for batch in 16 17; do
        if [[ -z "$TRAINING_DATA" ]]; then
            skip "bits-$batch" "there are no data" bits-data
            continue
        fi
        stage "bits-$batch" 10-120 'bits|^time' passes "$HERE/bits.sh" "$SCENERANK" "$TRAINING_DATA" "$WORK/bits-$batch" \
            --device "$DEVICE" --precision bf16 --epochs 1 --batch-size "$batch" "${network[@]}"
        measure "bits_$batch" "$(sed -n 's/\(.* steps\):.*/\1/p' "$LOGS/bits-$batch.log" 2>/dev/null)"
        rm -rf "$WORK/bits-$batch"
    done
fi

# ---- oracle ---------------------------------------------------------------------------------------------------------

check_torch
# shellcheck source=scripts/gpu_check/oracle.sh
source "$HERE/oracle.sh"
check_loss ranking fp32 bf16x3 bf16
# Verifies that the oracle can reject a step.
if [[ -n "$no_oracle" ]]; then
    skip oracle-rejects "$no_oracle" torch
else
    spoilt="$WORK/spoilt.safetensors"
    stage oracle-spoilt-inputs 5-60 'nodes' passes "$PYTHON" "$HERE/peer/make_step.py" "$spoilt" --masks \
        --corrupt grad.layers.1.edge.subject.linear.weight &&
        stage oracle-rejects 5-60 'FAIL|passed,' rejects "$PYTHON" "$HERE/peer/check_step.py" "$spoilt" --quiet
fi

# ---- steps ----------------------------------------------------------------------------------------------------------

for precision in bf16 bf16x3 fp32; do
    bench "steps-$precision" 10-90 --precision "$precision" --kernel step --batch-size "${step_sizes[@]}" --budget 100
    for i in "${!step_sizes[@]}"; do
        measure_micros "step_${precision}_${step_names[i]}" "$(micros "steps-$precision" step "${step_sizes[i]}" layers)"
    done
done
for precision in bf16 bf16x3; do
    of="wgmma-$precision"
    bench_of wgmma "steps-$of" 10-90 --precision "$precision" --kernel step --batch-size "${step_sizes[@]}" --budget 100
    for i in "${!step_sizes[@]}"; do
        measure_micros "step_${of/-/_}_${step_names[i]}" "$(micros "steps-$of" step "${step_sizes[i]}" layers)"
    done
done

# ---- measurements that decide what is next --------------------------------------------------------------------------

SCENERANK_SERIAL_LAUNCHES=1 bench steps-serial 5-60 --precision bf16 --kernel step --batch-size "${step_sizes[@]}" --budget 100
for i in "${!step_sizes[@]}"; do
    measure_micros "serial_${step_names[i]}" "$(micros steps-serial step "${step_sizes[i]}" layers)"
done

SCENERANK_NO_BRANCH=1 bench steps-no-branch 5-60 --precision bf16 --kernel step --batch-size "${step_sizes[@]}" --budget 100
for i in "${!step_sizes[@]}"; do
    measure_micros "without_branch_${step_names[i]}" "$(micros steps-no-branch step "${step_sizes[i]}" layers)"
done

# Each launch of a captured step, in series.
bench timeline 5-60 --precision bf16 --kernel step --batch-size "$few" --budget 20 --timeline
in_series="$(field timeline step_us)" between="$(field timeline between_us)"
measure timeline_16 "${in_series:+$in_series us, $between of them between}"

bench lists-few 5-60 --precision bf16 --kernel edge_hidden --kernel edge_pool --batch-size "$few" --budget 50
measure_kernel sum_types_16 lists-few edge_hidden_sum_types "$few"
measure_kernel sum_ends_16 lists-few edge_hidden_sum_ends "$few" 'over lengths'
measure_kernel pool_16 lists-few edge_pool_forward "$few"
measure_kernel pool_backward_sums_16 lists-few edge_pool_backward_sums "$few"
measure_kernel pool_backward_16 lists-few edge_pool_backward "$few"
copy="$(field lists-few copy_gb_per_s %.0f)" mma="$(field lists-few bf16_tflop_per_s %.0f)"
varied="$(field lists-few bf16_varied_tflop_per_s %.0f)"
measure copy "${copy:+$copy GB/s}"
measure mma "${mma:+$mma TFLOP/s}"
measure mma_varied "${varied:+$varied TFLOP/s}"
measure_micros empty_single "$(field lists-few single_us %.2f)"
measure_micros empty_graph "$(field lists-few in_graph_us %.2f)"
measure_micros empty_overlap "$(field lists-few overlapped_us %.2f)"

# The time of a training step beside the bench's.
trained="$(sed -n 's/^time overlap: \([0-9.]*\) us.*/\1/p' "$LOGS/bits-16.log" 2>/dev/null)"
measure_micros training_step "$trained"

variant=graph precision=bf16 race_sizes=(--triples 16 --steps 50)
if [[ "$DEVICE" == emulated ]]; then
    variant=eager precision=fp32 race_sizes=(--cpu --triples 1 --steps 1 --warmup 0)
fi
if [[ -n "$no_race" ]]; then
    skip "race-$variant-$precision" "$no_race" torch
else
    stage "race-$variant-$precision" 10-90 '^\{' passes "$PYTHON" "$HERE/peer/race.py" --variants "$variant" \
        --precisions "$precision" "${race_sizes[@]}"
    measure_micros torch_graph "$(race_micros "$LOGS/race-graph-bf16.log" 16)"
fi

bench lists-many 10-120 --precision bf16 --kernel edge_hidden_sum_types --kernel edge_pool --batch-size "$many" --budget 50
measure_kernel sum_types_1024 lists-many edge_hidden_sum_types "$many"
measure_kernel pool_backward_sums_1024 lists-many edge_pool_backward_sums "$many"
measure_kernel pool_backward_1024 lists-many edge_pool_backward "$many"
# A product's expectation is computed on the CPU in double precision, so a whole file of kernels takes long at this size.
for kernel in linear_forward linear_backward; do
    bench "products-many-$kernel" 20-150 --precision bf16 --kernel "$kernel" --batch-size "$many" --budget 50
    measure_kernel "heads_${kernel#linear_}_1024" "products-many-$kernel" "$kernel" "$many" "-> $heads, heads"
done

# ---- kernels --------------------------------------------------------------------------------------------------------

if [[ "$DEVICE" == cuda ]]; then
    bench kernels-few 20-120 --precision bf16 --batch-size "$few" --budget 50
    # What is not measured at this size yet, a file of kernels at a time, so that a cut loses little.
    for kernel in edge_hidden batch_norm readout l2_normalise embedding adam gradient_norm weight_copy assemble_graph_batch draw_triples; do
        bench "kernels-many-$kernel" 10-90 --precision bf16 --kernel "$kernel" --batch-size "$many" --budget 50
    done
else
    bench kernels-few 10-600 --precision bf16 --kernel readout --kernel linear_forward --batch-size "$few"
fi
