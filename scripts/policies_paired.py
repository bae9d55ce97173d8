#!/usr/bin/env python3
"""Two policies, or two settings or builds of one, seed by seed: differences far below what seeds differ by.

    cargo build --release && EVENLOAD_DATA=FOLDER python3 scripts/policies_paired.py --seeds 1-40 seed-800 chat-low \\
        --against '{"prefix_aware": {"decode_weight": 4}}' --against least_tokens --against ./other-build@prefix_aware

The first policy is `--policy` (prefix_aware unless it is given); each `--against` is compared with it: a name, settings as
JSON, or a build of evenload, `@` and one of these. Workloads are those of scripts/policies.py. A line a comparison: the
mean over the seeds of the difference of the logarithms, in per cent, and its standard error; below twice that it is noise.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
from concurrent.futures import ThreadPoolExecutor

import policies

FIGURES = ["duration_s", "mean_ttft_ms", "p99_ttft_ms"]


def run(flags, policy, seed):
    """The figures of one run."""
    build, _, name = policy.rpartition("@")
    command = [build or policies.EVENLOAD, "simulate", "run", *flags, "--policy", name, "--seed", str(seed)]
    lines = subprocess.run([*command, "--json", "--no-bound"], check=True, capture_output=True, text=True).stdout
    return json.loads(lines.splitlines()[0])["figures"]


def difference(pairs, figure):
    """Mean and standard error, in per cent."""
    logarithms = [100 * math.log(right[figure] / left[figure]) for left, right in pairs]
    return statistics.mean(logarithms), statistics.stdev(logarithms) / math.sqrt(len(logarithms))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1-20", help="FIRST-LAST, two at least")
    parser.add_argument("--policy", default="prefix_aware")
    parser.add_argument("--against", action="append", required=True)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a workload")
    arguments = parser.parse_args()
    first, last = map(int, arguments.seeds.split("-"))
    flags = {name: flags for name, flags, *_ in policies.runs()}
    chosen = [arguments.policy, *arguments.against]
    for name in arguments.names:
        if name not in flags:
            parser.error(f"no workload {name}; there are {', '.join(flags)}")
        if "{data}" in flags[name] and not policies.DATA:
            parser.error(f"{name} needs EVENLOAD_DATA")
        words = flags[name].format(data=policies.DATA).split()
        jobs = [(words, policy, seed) for policy in chosen for seed in range(first, last + 1)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            figures = list(pool.map(lambda job: run(*job), jobs))
        count = last - first + 1
        base = figures[:count]
        means = "  ".join(f"{key} {statistics.mean(one[key] for one in base):.1f}" for key in FIGURES)
        print(f"{name}  {arguments.policy}: {means}")
        for place, policy in enumerate(arguments.against, 1):
            pairs = list(zip(base, figures[place * count :]))
            parts = [(key, *difference(pairs, key)) for key in FIGURES]
            print(f"  {policy}: " + "  ".join(f"{key} {mean:+.2f} ± {error:.2f} %" for key, mean, error in parts), flush=True)


if __name__ == "__main__":
    main()
