#!/usr/bin/env python3
"""What cache events are worth: `prefix_aware` by its history alone, and with the engines' own account.

    cargo build --release
    python3 scripts/kv_events.py [--repeat 2] > raw.jsonl

Four simulated L4 replicas that publish events, one and two `evenload serve` in front of them, and 120 conversations at a
time over real HTTP, most of them pausing between turns, which need more than the caches hold; a turn goes to a balancer
at random. A line for each run: the fleet's hit ratio from the engines' own counters, what the balancers expected of
caches, what was missing and what came as a surprise (tokens), and the load generator's figures. Times are those of
engines --speedup times as fast as an L4.
"""

import argparse
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from machine import commit, stolen_share, stolen_ticks

REPLICAS = 4


def free_ports(count):
    """A run of ports that nobody listens on."""
    for base in range(21_000, 30_000, 50):
        sockets = []
        try:
            for port in range(base, base + count):
                sockets.append(socket.create_server(("127.0.0.1", port)))
            return base
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise SystemExit("no free ports")


def wait_for(url, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            return urllib.request.urlopen(url, timeout=1).read()
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


def summed(pages, name):
    """The sum of a metric over all its labels."""
    return sum(float(value) for page in pages for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", page, re.M))


def run(binary, speedup, balancers, events):
    base = free_ports(40)
    engines = [f"http://127.0.0.1:{base + replica}" for replica in range(REPLICAS)]
    fronts = [f"http://127.0.0.1:{base + 20 + 2 * place}" for place in range(balancers)]
    admins = [f"127.0.0.1:{base + 21 + 2 * place}" for place in range(balancers)]
    started = []
    with tempfile.TemporaryDirectory() as folder:
        log = open(os.path.join(folder, "log"), "w")
        try:
            command = [binary, "engine", "--replicas", str(REPLICAS), "--port", str(base), "--speedup", str(speedup),
                       "--kv-events-port", str(base + 5), "--kv-events-replay-port", str(base + 10)]
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
            for url in engines:
                wait_for(url + "/health")
            for front, admin in zip(fronts, admins):
                command = [binary, "serve", "--policy", "prefix_aware", "--balancers", str(balancers),
                           "--listen", front.removeprefix("http://"), "--admin-listen", admin]
                command += [word for url in engines for word in ("--replica", url)]
                if events:
                    command += ["--kv-events-port", str(base + 5), "--kv-events-replay-port", str(base + 10)]
                started.append(subprocess.Popen(command, stdout=log, stderr=log))
                wait_for(f"http://{admin}/metrics")
            time.sleep(1.5)
            model = json.loads(wait_for(engines[0] + "/v1/models"))["data"][0]["id"]
            command = [binary, "profile", "--model", model, "--endpoint-type", "chat", "--streaming",
                       "--url-strategy", "random", "--random-seed", "7", "--concurrency", "120",
                       "--conversation-num", "360", "--conversation-turn-mean", "5", "--conversation-turn-stddev", "2",
                       "--isl", "500", "--isl-stddev", "250", "--osl", "80", "--osl-stddev", "30",
                       "--conversation-turn-delay-mean", "2000", "--conversation-turn-delay-stddev", "1000",
                       "--shared-system-prompt-length", "200", "--ui-type", "none", "--tokenizer", "builtin",
                       "--output-artifact-dir", os.path.join(folder, "profile")]
            command += [word for front in fronts for word in ("--url", front)]
            before, start = stolen_ticks(), time.monotonic()
            subprocess.run(command, check=True, stdout=log, stderr=log, timeout=900)
            seconds = time.monotonic() - start
            pages = [wait_for(url + "/metrics").decode() for url in engines]
            own = [wait_for(f"http://{admin}/metrics").decode() for admin in admins]
            profile = json.loads(pathlib.Path(folder, "profile", "profile_export_aiperf.json").read_text())
        except (SystemExit, subprocess.SubprocessError):
            log.flush()
            print(pathlib.Path(folder, "log").read_text()[-3000:], file=sys.stderr)
            raise
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(20)
            log.close()
    hits, asked = (summed(pages, f"vllm:prefix_cache_{part}_total") for part in ("hits", "queries"))
    names = {"expected": "predicted_cached", "missing": "predicted_missing", "surprising": "unpredicted_cached"}
    tokens = {part: summed(own, f"evenload_{name}_tokens_total") for part, name in names.items()}
    return {"balancers": balancers, "index": "events" if events else "history",
            "seconds": round(seconds, 2), "hit_ratio": round(hits / asked, 4), **tokens,
            "ttft_ms": {part: profile["time_to_first_token"][part] for part in ("avg", "p50", "p99")},
            "requests": profile["request_count"]["avg"], "stolen": stolen_share(before)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evenload", default="target/release/evenload")
    parser.add_argument("--speedup", type=float, default=4)
    parser.add_argument("--repeat", type=int, default=2)
    arguments = parser.parse_args()
    binary = os.path.abspath(arguments.evenload)
    print(json.dumps({"commit": commit(), "time": time.strftime("%FT%TZ", time.gmtime()), "cores": os.cpu_count(),
                      "speedup": arguments.speedup}))
    for _ in range(arguments.repeat):
        for balancers in (1, 2):
            for events in (False, True):
                print(json.dumps(run(binary, arguments.speedup, balancers, events)), flush=True)


if __name__ == "__main__":
    main()
