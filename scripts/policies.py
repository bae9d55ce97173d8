#!/usr/bin/env python3
"""Routing policies on simulated fleets: every workload of docs/benchmarks/policies.md, under five seeds.

    cargo build --release && EVENLOAD_DATA=FOLDER python3 scripts/policies.py [--seeds 1,2,3,4,5] [NAME...]
    python3 scripts/policies.py --tables docs/benchmarks/raw/policies-TIME.jsonl

Writes docs/benchmarks/raw/policies-TIME.jsonl, a line for each workload and policy. Workloads that need files from
EVENLOAD_DATA are left out, by name, where it is not set. Single workloads are chosen by NAME. The second form
prints the tables of such a file in Markdown.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import time

from machine import commit

ROOT = pathlib.Path(__file__).resolve().parent.parent
EVENLOAD = ROOT / "target/release/evenload"
DATA = os.environ.get("EVENLOAD_DATA")

CONVERSATIONS = "{data}/sharegpt-800-conversations.jsonl.gz"
SEED_800 = "--workload kubeai --warm --rate 800 --concurrency 800"
SEED_8000 = "--workload kubeai --warm --rate 800 --concurrency 8000"
PROMPTS = f"--workload prompts:{CONVERSATIONS} --rate 800 --concurrency 800"
SESSIONS = f"--workload sessions:{CONVERSATIONS} --rate 800 --concurrency 400"
PREAMBLE = f"{SESSIONS} --preamble-tokens 512"
MOONCAKE = "--workload {data}/mooncake-conversation.jsonl.gz --profile h100-llama-3.1-8b-bf16"
HALF = "--profile l4-llama-3.1-8b-fp8@0.5=1 --profile l4-llama-3.1-8b-fp8=7"
HALF_H100 = "--profile h100-llama-3.1-8b-bf16@0.5=1 --profile h100-llama-3.1-8b-bf16=7"
BASE = {
    "seed-800": SEED_800,
    "seed-8000": SEED_8000,
    "800-conversations": PROMPTS,
    "sessions": SESSIONS,
    "sessions-preamble": PREAMBLE,
    "mooncake": MOONCAKE,
}
# The published workload is in the program; these are made. What was chosen by them stands in docs/benchmarks/policies.md.
MADE = {
    "chat-low": "--workload conversations --rate 2 --sessions 600 --turns 6,3 --think-time-s 20,10 --preamble-tokens 400",
    "chat-high": "--workload conversations --rate 4 --sessions 2400 --turns 6,3 --think-time-s 20,10 --preamble-tokens 400",
    "documents": "--workload conversations --concurrency 160 --sessions 1600 --turns 4,2 --preambles 60 --preamble-tokens 4000 "
    "--message-tokens 100,50 --answer-tokens 150,80",
    "bursts": "--workload conversations --rate 6 --arrival gamma:0.1 --sessions 2400 --turns 3,2 --think-time-s 5,3",
    "long-answers": "--workload conversations --concurrency 300 --sessions 1500 --turns 2-4 --message-tokens 50,30 "
    "--answer-tokens 600,400",
    "mixed-lengths": "--workload words --concurrency 200 --sessions 3000 --turns 1-3 --message-tokens 20-4000 "
    "--answer-tokens 10-400 --preambles 8 --preamble-tokens 300",
    "rtx4090": "--workload conversations --profile rtx4090-llama-3.1-8b-bf16 --concurrency 240 --sessions 2400 --turns 5,2",
    "h100-busy": "--workload conversations --profile h100-llama-3.1-8b-bf16 --concurrency 900 --sessions 6000 --turns 8,4 "
    "--message-tokens 400,300 --answer-tokens 200,100 --preambles 4 --preamble-tokens 1000",
    "two-replicas": "--workload conversations --replicas 2 --concurrency 60 --sessions 800 --turns 5,2 --preamble-tokens 200",
    "tenants": "--workload conversations --concurrency 300 --sessions 3000 --turns 3,2 --preambles 200 --preamble-tokens 1500 "
    "--message-tokens 80,60 --answer-tokens 120,100",
    "retrieval": "--workload words --rate 6 --sessions 4000 --turns 1-1 --preambles 12 --preamble-tokens 1000 "
    "--message-tokens 500-6000 --answer-tokens 5-120",
    "agents": "--workload conversations --rate 1.5 --sessions 500 --turns 16,8 --think-time-s 15,30 --preambles 3 "
    "--preamble-tokens 2000 --message-tokens 150,200 --answer-tokens 100,80",
    "mixed-fleet": "--workload conversations --profile l4-llama-3.1-8b-fp8=6 --profile rtx4090-llama-3.1-8b-bf16=2 "
    "--concurrency 300 --sessions 2400 --turns 5,2",
}
POLICIES = ["random", "least_requests", "least_tokens", "kubeai", "prefix_hash", "prefix_aware"]
RIVALS = ["least_requests", "kubeai", "prefix_aware"]


def runs():
    """Name, flags, policies, whether with the bound; what matters most first."""
    for name, flags in BASE.items():
        yield name, flags, POLICIES, True
    for name, flags in BASE.items():
        yield f"{name}/balancers-8", f"{flags} --balancers 8", RIVALS, False
    for name, flags in BASE.items():
        yield f"{name}/unknown-output", f"{flags} --unknown-output", ["prefix_aware"], False
    for name, flags in BASE.items():
        half = HALF_H100 if name == "mooncake" else HALF
        slower = flags.replace("--profile h100-llama-3.1-8b-bf16", "") + " " + half
        yield f"{name}/half-speed", slower, RIVALS, False
    for name, flags in MADE.items():
        yield name, flags, POLICIES, False
    for name, flags in MADE.items():
        yield f"{name}/balancers-8", f"{flags} --balancers 8", RIVALS, False


def tables(path):
    """Prints a table for each kind of run: duration, mean and P99 TTFT of every policy."""
    lines = [json.loads(line) for line in path.open()]
    print(f"Commit {lines[0]['commit']}, seeds {lines[0]['seeds']}.")
    kinds = {}
    for row in lines[1:]:
        name, _, kind = row["workload"].partition("/")
        kinds.setdefault(kind, {}).setdefault(name, {})[row["policy"]] = row["figures"]
    for kind, workloads in kinds.items():
        policies = list(dict.fromkeys(policy for row in workloads.values() for policy in row))
        print(f"\n### {kind.replace('-', ' ') or 'one balancer, equal replicas'}\n")
        print("| workload | " + " | ".join(f"`{policy}`" for policy in policies) + " |")
        print("|---" * (len(policies) + 1) + "|")
        for name, row in workloads.items():
            cells = []
            for policy in policies:
                figures = row.get(policy)
                cells.append(
                    f"{figures['duration_s']:.1f} s, {figures['mean_ttft_ms']:.0f} / {figures['p99_ttft_ms']:.0f}"
                    if figures
                    else ""
                )
            print(f"| {name} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--policy", action="append", help="these policies only")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a workload, or a part of its name")
    parser.add_argument("--tables", type=pathlib.Path, metavar="FILE", help="print the tables of a file, run nothing")
    arguments = parser.parse_args()
    if arguments.tables:
        tables(arguments.tables)
        return
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    path = arguments.output or ROOT / f"docs/benchmarks/raw/policies-{stamp}.jsonl"
    seeds = [flag for seed in arguments.seeds.split(",") for flag in ("--seed", seed)]
    with path.open("w") as raw:
        head = {"commit": commit(), "time": stamp, "seeds": arguments.seeds}
        print(json.dumps(head), file=raw, flush=True)
        for name, flags, policies, bound in runs():
            if arguments.names and not any(name == wanted or wanted in name.split("/") for wanted in arguments.names):
                continue
            if "{data}" in flags and not DATA:
                print(f"{name}: left out, EVENLOAD_DATA is not set", file=sys.stderr)
                continue
            flags = flags.format(data=DATA).split()
            chosen = [flag for policy in arguments.policy or policies for flag in ("--policy", policy)]
            command = [EVENLOAD, "simulate", "run", *flags, *chosen, *seeds, "--json"]
            command += [] if bound and not arguments.policy else ["--no-bound"]
            start = time.monotonic()
            lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
            print(f"{name}  ({time.monotonic() - start:.0f} s)")
            shown = " ".join(flags).replace(DATA or "\0", "$EVENLOAD_DATA")
            for line in map(json.loads, lines):
                row = {"workload": name, "flags": shown, **line}
                print(json.dumps(row), file=raw, flush=True)
                figures = line["figures"]
                print(
                    f"  {line['policy']:<15}{figures['duration_s']:>9.2f} s{figures['total_tokens_per_s']:>10.0f} tok/s"
                    f"{figures['mean_ttft_ms']:>10.1f}{figures['p99_ttft_ms']:>10.1f} ms{figures['prefix_hit_ratio']:>8.3f}"
                    f"{figures['imbalance']:>7.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
