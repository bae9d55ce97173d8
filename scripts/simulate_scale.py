#!/usr/bin/env python3
"""How the cost of a simulation grows with replicas and requests.

    cargo build --release && python3 scripts/simulate_scale.py > docs/benchmarks/raw/simulate-scale-DATE.jsonl

Made conversations of five turns at 0.4 new ones a second for each replica, one seed, without the bound. Processor time and
peak memory are what the kernel counted for the process. Wall time says little where others use the machine.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time

from machine import commit

TURNS = 5
SESSIONS_PER_S = 0.4


def measure(evenload, policy, replicas, requests):
    flags = [
        "simulate", "run", "--workload", "conversations", "--policy", policy, "--replicas", str(replicas),
        "--sessions", str(requests // TURNS), "--rate", f"{SESSIONS_PER_S * replicas:g}", "--seed", "1", "--no-bound",
    ]
    began = time.monotonic()
    process = subprocess.Popen([evenload, *flags], stdout=subprocess.PIPE, text=True)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"evenload {' '.join(flags)}: status {status}")
    events = int(re.search(r"^(\d+) events", out, re.MULTILINE).group(1))
    cpu_s = usage.ru_utime + usage.ru_stime
    return {
        "command": f"evenload {' '.join(flags)}", "policy": policy, "replicas": replicas, "requests": requests,
        "events": events, "wall_s": round(time.monotonic() - began, 2), "cpu_s": round(cpu_s, 2),
        "events_per_cpu_s": round(events / cpu_s), "cpu_us_per_request": round(cpu_s / requests * 1e6, 1),
        "peak_memory_mib": round(usage.ru_maxrss / 1024, 1), "row": out.strip().splitlines()[-3],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evenload", default="target/release/evenload")
    parser.add_argument("--policy", action="append")
    parser.add_argument("--replicas", type=int, action="append")
    parser.add_argument("--requests", type=int, action="append")
    arguments = parser.parse_args()
    print(json.dumps({"commit": commit(), "cores": os.cpu_count(), "load_average": os.getloadavg()}), flush=True)
    for policy in arguments.policy or ["least_requests", "prefix_aware"]:
        for requests in arguments.requests or [10_000, 100_000, 1_000_000]:
            for replicas in arguments.replicas or [10, 100, 1_000]:
                print(json.dumps(measure(arguments.evenload, policy, replicas, requests)), flush=True)


if __name__ == "__main__":
    main()
