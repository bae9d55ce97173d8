#!/usr/bin/env python3
"""The same fleet twice: `evenload demo`, over real HTTP and in real time, and `evenload simulate`, in virtual time.

    cargo build --release
    python3 scripts/demo_beside_simulator.py [--speedup 2] [--tries 3] > raw.jsonl

Both send the published workload to 8 cold replicas under each policy. The first line says where and when; each further
line is a run of one policy: the demo's figures, the simulator's, the first divided by the second, how much of the
processors' time the host of a virtual machine took meanwhile, and why the demo's figures are not valid, if they are not.
Times are simulated ones. Real time has this machine's pauses in it, multiplied by the speed-up: where the machine could
not follow it, the run is shown and repeated, up to `--tries` runs in all.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time

from machine import commit, stolen_share, stolen_ticks

FIGURES = ["total_tokens_per_s", "mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "prefix_hit_ratio"]


def by_name(figures):
    """The demo's figures as the simulator names them."""
    return {"total_tokens_per_s": figures["total_tokens_per_s"], "mean_ttft_ms": figures["ttft_ms"]["mean"],
            "p99_ttft_ms": figures["ttft_ms"]["p99"], "mean_tpot_ms": figures["tpot_ms"]["mean"],
            "prefix_hit_ratio": figures["prefix_hit_ratio"]}


def run_demo(command):
    """What the demo measured, as it wrote it."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*command, "--output", folder], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, timeout=3600)
        with open(os.path.join(folder, "demo.json")) as file:
            return json.load(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evenload", default="target/release/evenload")
    parser.add_argument("--policies", nargs="+", default=["random", "least_requests", "prefix_hash", "prefix_aware"])
    parser.add_argument("--speedup", type=float, default=2)
    parser.add_argument("--tries", type=int, default=3, help="runs of a policy that the machine could not follow")
    parser.add_argument("--concurrency", type=int, default=800)
    parser.add_argument("--requests", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    binary = os.path.abspath(arguments.evenload)
    policies = [word for policy in arguments.policies for word in ("--policy", policy)]
    common = ["--concurrency", str(arguments.concurrency), "--seed", str(arguments.seed)]

    command = [binary, "simulate", "run", "--workload", "kubeai", *policies, *common, "--no-bound", "--json",
               "--network-ms", "0", "--rate", str(arguments.concurrency), "--sessions", str(arguments.requests)]
    simulated = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
    simulated = {row["policy"]: row["figures"] for row in map(json.loads, simulated.splitlines()) if "policy" in row}

    print(json.dumps({"commit": commit(), "time": time.strftime("%FT%TZ", time.gmtime()), "cores": os.cpu_count(),
                      "kernel": os.uname().release, "speedup": arguments.speedup, "requests": arguments.requests,
                      "concurrency": arguments.concurrency, "seed": arguments.seed}), flush=True)
    for policy in arguments.policies:
        for _ in range(arguments.tries):
            before = stolen_ticks()
            demo = run_demo([binary, "demo", "--policy", policy, *common, "--requests", str(arguments.requests),
                             "--speedup", str(arguments.speedup)])
            warnings = demo["assessments"][0]["assessment"]["warnings"]
            notes = [warning["message"] for warning in warnings if warning["severity"] == "invalid"]
            real, virtual = by_name(demo["policies"][0]), {key: simulated[policy][key] for key in FIGURES}
            ratio = {key: round(real[key] / virtual[key], 3) for key in FIGURES if real[key] and virtual[key]}
            print(json.dumps({"policy": policy, "ratio": ratio, "stolen": stolen_share(before), "notes": notes,
                              "demo": real, "simulated": virtual}), flush=True)
            if not notes:
                break


if __name__ == "__main__":
    main()
