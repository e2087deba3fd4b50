# shellcheck shell=bash
# Runs COMMAND ITEM for each item, JOBS at a time (one per core). Fails if one of them fails.
in_parallel() { # COMMAND ITEM...
    local running=0 failed=no item
    for item in "${@:2}"; do
        if ((running == ${JOBS:-$(nproc)})); then
            wait -n || failed=yes
            running=$((running - 1))
        fi
        "$1" "$item" &
        running=$((running + 1))
    done
    for ((; running; running--)); do
        wait -n || failed=yes
    done
    [[ "$failed" == no ]]
}
