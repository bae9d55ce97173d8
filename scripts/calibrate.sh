#!/bin/sh
# The accuracy of the load generator on this machine, as figures: measured minus known latencies at each rate.
#
#   scripts/calibrate.sh [FLAGS OF evenload calibrate]
#
# Writes docs/benchmarks/raw/calibrate-DATE.jsonl: what and where in the first line, a rate in each further one.
# For figures that count, nothing else should run on the machine; the first line holds the load average.
set -eu
cd "$(dirname "$0")/.."
binary=${EVENLOAD:-target/release/evenload}
raw=docs/benchmarks/raw/calibrate-$(date -u +%Y%m%d-%H%M%S).jsonl
points=$(mktemp)
trap 'rm -f "$points"' EXIT
load=$(cut -d' ' -f1-3 /proc/loadavg)
"$binary" calibrate --json "$points" "$@" || true
printf '{"what": "evenload calibrate %s", "commit": "%s", "cores": %s, "load_average_before": "%s", "kernel": "%s"}\n' \
    "$*" "$(git describe --always --dirty)" "$(nproc)" "$load" "$(uname -r)" > "$raw"
cat "$points" >> "$raw"
echo "raw output: $raw"
