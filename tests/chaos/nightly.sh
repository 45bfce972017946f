#!/usr/bin/env bash
# What is too long for every change: all mutants, a minute of rebalances, then an hour of chaos with a seed of the day. Run it from a timer.
# Stops at nothing in between; leaves with 1 when either failed. METERLINE_CHAOS_MINUTES and METERLINE_CHAOS_SEED override.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2

failed=0
./run mutants --json || failed=1
METERLINE_STORM_S=60 ./run test tests/integration/test_rebalance_storm.py || failed=1
./run chaos --minutes "${METERLINE_CHAOS_MINUTES:-60}" --seed "${METERLINE_CHAOS_SEED:-$(date -u +%Y%m%d)}" --json || failed=1
exit "$failed"
