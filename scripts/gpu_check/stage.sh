# shellcheck shell=bash
# Stages of the check: each has a limit, a log and a record. Results are packed after each stage. Sourced by run.sh, which
# sets the variables in capitals, among them ENDS: the second, counted from the start, at which the last stage must end.

# ---- JSON -----------------------------------------------------------------------------------------------------------

# Sets REPLY to the text as a JSON string.
json_string() { # TEXT
    local text="$1"
    text="${text//\\/\\\\}"
    text="${text//\"/\\\"}"
    text="${text//$'\t'/\\t}"
    text="${text//$'\n'/\\n}"
    REPLY="\"${text//[$'\001'-$'\037']/}\""
}

# Sets REPLY to an array of the text's lines.
json_lines() { # TEXT
    local line array="" separator=""
    while IFS= read -r line; do
        [[ -n "$line" ]] || continue
        json_string "$line"
        array+="$separator$REPLY" separator=", "
    done <<<"$1"
    REPLY="[$array]"
}

# ---- records --------------------------------------------------------------------------------------------------------

# Number of stages by result.
declare -A count=([ok]=0 [failed]=0 [cut]=0 [skipped]=0 [not started]=0)
stages=0
# Results of stages by name.
declare -A result_by_name=()

# Prints the result of a stage, or nothing if there is none.
result_of() { # NAME
    [[ -z "$1" ]] || printf '%s' "${result_by_name[$1]:-}"
}

# Prints the number of stages with this result.
number_of() { # RESULT
    printf '%d' "${count[$1]}"
}

# Sections of the summaries, to which each stage adds its part.
json_stages="" md_rows="" md_figures=""

record() { # NAME RESULT SECONDS NOTE FIGURES
    stages=$((stages + 1))
    count[$2]=$((count[$2] + 1))
    result_by_name[$1]="$2"
    printf '%-11s %-28s %4s s  %s\n' "$2" "$1" "$3" "$4"
    local name note figures
    json_string "$1" && name="$REPLY"
    json_string "$4" && note="$REPLY"
    json_lines "$5" && figures="$REPLY"
    [[ -z "$json_stages" ]] || json_stages+=,
    json_stages+=$'\n'"    {\"name\": $name, \"result\": \"$2\", \"seconds\": $3, \"note\": $note, \"figures\": $figures}"
    md_rows+="| $1 | $2 | $3 | $4 |"$'\n'
    [[ -z "$5" ]] || md_figures+=$'\n'"## $1"$'\n\n~~~\n'"$5"$'\n~~~\n'
    # A stage that did not run waits for the next one that did, or for the end.
    [[ "$2" == skipped || "$2" == "not started" ]] || write_results
}

verdict() {
    echo "$stages stages: ${count[ok]} ok, ${count[failed]} failed, ${count[cut]} cut off by the deadline," \
        "${count[not started]} not started, ${count[skipped]} skipped"
}

# Writes the summaries, and the archive of everything that is there so far. A reader never finds half a file.
write_results() {
    local json_built json_gpu
    json_lines "${BUILT:?}" && json_built="$REPLY"
    json_string "${GPU:?}" && json_gpu="$REPLY"
    {
        printf '{\n  "built": %s,\n  "date": "%s",\n  "device": "%s",\n  "part": %d,\n' "$json_built" \
            "${DATE:?}" "$DEVICE" "$PART"
        printf '  "gpu": %s,\n  "failed": %d,\n  "stages": [%s\n  ]\n}\n' "$json_gpu" "${count[failed]}" "$json_stages"
    } >"$RESULTS/summary.json"
    essentials >"$RESULTS/essentials.txt"
    {
        printf '# GPU check, part %d, %s, device %s\n\n' "$PART" "$DATE" "$DEVICE"
        printf -- '- %s\n' "${BUILT//$'\n'/$'\n'- }" "GPU: $GPU" "$(verdict)"
        printf '\n~~~\n'
        cat "$RESULTS/essentials.txt"
        printf '~~~\n\n| stage | result | s | |\n| --- | --- | --- | --- |\n%s%s' "$md_rows" "$md_figures"
    } >"$RESULTS/summary.md"
    cp "$RESULTS"/summary.* "$RESULTS/essentials.txt" "$OUT/"
    cp "$XDG_CACHE_HOME"/scenerank/kernels-*.json "$RESULTS/" 2>/dev/null
    [[ ! -e "$OUT/clocks.csv" ]] || cp "$OUT/clocks.csv" "$RESULTS/"
    tar -C "$WORK" -czf "$OUT/.results.tgz" results && mv "$OUT/.results.tgz" "$OUT/results.tgz"
}

# ---- essentials -----------------------------------------------------------------------------------------------------

# Measurements by key; expected.txt has the keys, what they are and what the model expects.
declare -A measured=()

# Notes a measurement, unless it is empty.
measure() { # KEY VALUE
    [[ -z "$2" ]] || measured[$1]="$2"
}

# Notes a time in microseconds, unless it is empty.
measure_micros() { # KEY MICROSECONDS
    measure "$1" "${2:+$2 us}"
}

essentials() {
    local key what expected
    [[ "$DEVICE" == cuda ]] || echo "emulated: sizes are small, and times say nothing about a GPU"
    printf '%-58s %-34s %s\n' "essentials, part $PART" measured "expected by the model (H200)"
    while IFS='|' read -r key what expected; do
        if [[ "$key" == "$PART".* ]]; then
            printf '%-58s %-34s %s\n' "$what" "${measured[${key#*.}]:--}" "$expected"
        fi
    done <"$HERE/expected.txt"
}

# ---- running --------------------------------------------------------------------------------------------------------

wanted() { [[ "$1" == *"$ONLY"* ]]; }

# Records that a stage does not run. If it lacks the result of a stage that the deadline cut or prevented, the deadline is
# the reason.
skip() { # NAME REASON [STAGE-NEEDED]
    wanted "$1" || return 0
    case "$(result_of "${3:-}")" in
        cut | "not started") record "$1" "not started" 0 "needs $3" "" ;;
        *) record "$1" skipped 0 "$2" "" ;;
    esac
}

# Process ids of running stages, with their properties.
declare -A name_of=() began_at=() limit_of=() cut_short=() pattern_of=() expected_of=()
# Result of the stage that ended last.
last_result=""

# Starts a stage in the background. It needs at least LEAST seconds and may take MOST; what is left until the deadline
# limits it too. FIGURES is a pattern of log lines for the summary, which keeps the last ten. EXPECTED is
#   passes     exit code 0
#   rejects    exit code 1, for a check that must fail
#   optional   anything; if not 0, the stage counts as skipped
start() { # NAME LEAST-MOST FIGURES EXPECTED COMMAND...
    local name="$1" least="${2%-*}" limit="${2#*-}" pattern="$3" expected="$4" left=$((ENDS - SECONDS)) cut=no
    shift 4
    wanted "$name" || return 1
    if ((left < least)); then
        record "$name" "not started" 0 "needs $least s, of which $((left > 0 ? left : 0)) are left" ""
        return 1
    fi
    # The emulator is slow, and tries only the check itself.
    [[ "$DEVICE" == cuda ]] || limit=$((10 * limit))
    if ((limit > left)); then
        limit=$left cut=yes
    fi
    printf '$ %s\n' "$*" >"$LOGS/$name.log"
    timeout --kill-after=3 "$limit" "$@" >>"$LOGS/$name.log" 2>&1 </dev/null &
    name_of[$!]="$name" began_at[$!]=$SECONDS limit_of[$!]=$limit cut_short[$!]=$cut
    pattern_of[$!]="$pattern" expected_of[$!]="$expected"
}

# Waits until one of the running stages ends, and records it.
await_one() {
    local pid
    while ((${#name_of[@]})); do
        for pid in "${!name_of[@]}"; do
            if ! kill -0 "$pid" 2>/dev/null; then
                finish "$pid"
                return
            fi
        done
        sleep 0.05
    done
}

await_all() {
    while ((${#name_of[@]})); do
        await_one
    done
}

finish() { # PID
    local pid="$1" name="${name_of[$1]}" code note=""
    wait "$pid"
    code=$?
    unset "name_of[$pid]"
    case "${expected_of[$pid]}:$code" in
        passes:0 | optional:0) last_result=ok ;;
        rejects:1) last_result=ok note="rejected, as it must be" ;;
        rejects:0) last_result=failed note="passed what is wrong" ;;
        *:124 | *:137)
            last_result=failed note="stopped after ${limit_of[$pid]} s"
            [[ "${cut_short[$pid]}" == no ]] || last_result="cut"
            ;;
        optional:*) last_result=skipped note="exit code $code, see its log" ;;
        *) last_result=failed note="exit code $code" ;;
    esac
    # A bench that was cut has written what it had finished.
    [[ ! -e "$RESULTS/$name.json" ]] || awk -f "$HERE/bench.awk" "$RESULTS/$name.json" >>"$LOGS/$name.log"
    record "$name" "$last_result" "$((SECONDS - began_at[$pid]))" "$note" \
        "$(grep -E "${pattern_of[$pid]}" "$LOGS/$name.log" | tail -10)"
}

# Runs a stage alone; true if it passed.
stage() { # NAME LEAST-MOST FIGURES EXPECTED COMMAND...
    start "$@" || return 1
    await_one
    [[ "$last_result" == ok ]]
}

# Starts a stage as soon as fewer than JOBS are running.
parallel_stage() { # NAME LEAST-MOST FIGURES EXPECTED COMMAND...
    while ((${#name_of[@]} >= JOBS)); do
        await_one
    done
    start "$@"
}

# Ends what is running; for a signal.
stop_running() {
    local pid
    for pid in "${!name_of[@]}"; do
        kill "$pid" 2>/dev/null
        wait "$pid"
        record "${name_of[$pid]}" cut "$((SECONDS - began_at[$pid]))" "the check was interrupted" ""
    done
    name_of=()
}

# ---- bench ----------------------------------------------------------------------------------------------------------

# Runs the bench of products by mma.sync; its JSON goes to NAME.json, which is written again after each kernel.
bench() { # NAME LEAST-MOST ARGUMENTS...
    bench_of mma "$@"
}

# Runs the bench of products of a family.
bench_of() { # FAMILY NAME LEAST-MOST ARGUMENTS...
    local family="$1" name="$2" seconds="$3"
    shift 3
    stage "$name" "$seconds" '^WRONG|^step|^[a-z_]+ +[0-9]|kernels auto' passes "$SCENERANK" bench --device "$DEVICE" \
        --kernels "$family" --quiet --out "$RESULTS/$name.json" "$@"
}

# Prints a column of bench.awk, a time in microseconds, of the last entry of NAME.json with this kernel, number of triples,
# and words in its family and shape; nothing if there is none.
column() { # COLUMN NAME KERNEL TRIPLES [SHAPE]
    [[ -e "$RESULTS/$2.json" ]] || return 0
    awk -f "$HERE/bench.awk" "$RESULTS/$2.json" |
        awk -v column="$1" -v kernel="$3" -v triples="$4" -v shape="${5:- }" \
            '$1 == kernel && $2 == triples && $column != "null" && index($0, shape) { us = $column } END { if (us) print us }'
}

micros() { # NAME KERNEL TRIPLES [SHAPE]
    column 3 "$@"
}

# Notes the times of a kernel, with arrays in memory and with arrays in the cache.
measure_kernel() { # KEY NAME KERNEL TRIPLES [SHAPE]
    local cold warm
    cold="$(column 3 "${@:2}")" warm="$(column 4 "${@:2}")"
    measure "$1" "${cold:+$cold us${warm:+, warm $warm us}}"
}

# Prints a number of NAME.json by its field, in the first place that has it; nothing if there is none.
field() { # NAME FIELD [FORMAT]
    [[ -e "$RESULTS/$1.json" ]] || return 0
    awk -F': ' -v field="\"$2\"" -v format="${3:-%.1f}" \
        'index($1, field) && $2 + 0 > 0 { printf format, $2; exit }' "$RESULTS/$1.json"
}
