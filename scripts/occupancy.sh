#!/usr/bin/env bash
# Prints the occupancy of each kernel as a table: one row per kind of kernel, the lowest occupancy first.
#
#   scripts/occupancy.sh [ARCHITECTURE [kernel_resources.csv]]     # sm_90a, what `cargo build` wrote
set -euo pipefail
cd "$(dirname "$0")/.."

echo "| warps | blocks, threads of each | limit | registers | shared bytes | kernels |"
echo "| --- | --- | --- | --- | --- | --- |"
sort "${2:-target/debug/kernel_resources.csv}" | awk -F, -v architecture="${1:-sm_90a}" '
$2 == architecture {
    name = $1
    if (match(name, /(_norm)?_(fp32|bf16x3|bf16)_(64|128)$/)) name = "linear_*" substr(name, RSTART)
    key = $9 " | " $8 " of " $7 " | " $10
    if (!(key in most) || $3 + 0 < least[key]) least[key] = $3
    if ($3 + 0 > most[key]) most[key] = $3
    if ($4 + 0 > shared[key]) shared[key] = $4
    if (!seen[key, name]++) names[key] = names[key] ", " name
}
END {
    for (key in names) {
        registers = least[key] == most[key] ? most[key] : least[key] " to " most[key]
        print "| " key " | " registers " | " shared[key] + 0 " | " substr(names[key], 3) " |"
    }
}' | sort -t'|' -k2,2n -k3,3n
