# Prints the entries of a bench's JSON: kernel, triples, then microseconds: median, warm, minimum, likely; family of a product or
# a step, and shape. Wrong kernels first.
function value(line) {
    sub(/^[^:]*: "?/, "", line)
    sub(/"?,?$/, "", line)
    return line
}
function micros(line, ms) {
    ms = value(line)
    return ms == "null" ? ms : sprintf("%.1f", 1000 * ms)
}
/^ *"name":/ { name = value($0) }
/^ *"batch_size":/ { triples = value($0) }
/^ *"shape":/ { shape = value($0) }
# The choice of auto has a family, too; it has no name.
/^ *"family":/ { family = value($0) }
/^ *"ok": false/ { print "WRONG:", name, "by", family, "at", triples, "triples,", shape }
/^ *"ms":/ { ms = micros($0) }
/^ *"warm_ms":/ { warm = micros($0) }
/^ *"likely_ms":/ { likely = micros($0) }
/^ *"floor_ms":/ { printf "%-28s %5s %10s %10s %8s %8s  by %s: %s\n", name, triples, ms, warm, micros($0), likely, family, shape }
