#!/usr/bin/env python3
"""What a proxy costs: CPU time per request and per streamed event, added latency, memory, system calls.

    cargo build --release && cargo build --release -p gateway --example fixed_backend
    python3 scripts/dataplane.py

Two backends with fixed answers and the load run on core 1; one proxy after the other, with one thread, runs on
core 0. Every scenario starts backends and proxy afresh. The order of the proxies is rotated from repetition to
repetition; figures are medians with the least and the greatest. CPU time is what the kernel charged to the proxy's
threads while the load was steady, divided by the requests or events that the backends counted in that time. What
kept the proxy's core busy beside the proxy is printed: above a few per cent, the figures say little.

Needs Linux with two cores, `wrk`, and for system calls `perf`; nginx and HAProxy are measured where they are
installed. Only Python's standard library is used.

A Markdown table goes to standard output, every single measurement to a file in docs/benchmarks/raw/.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import resource
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from dataplane_parts import loads, proxies, tables
from dataplane_parts.processes import Process, SyscallCount, core_busy_seconds, free_port
from machine import commit

ROOT = Path(__file__).resolve().parent.parent
PROXY_CORE, LOAD_CORE = 0, 1
WARM_UP_SECONDS = 1
SYSCALL_SECONDS = 3
IDLE_CONNECTIONS = 2000
OPEN_STREAMS = 1000

# Scenario -> flags of the backends, and of the load: connections, streamed, what the cost is divided by.
PACED = ["--first-ms", 20, "--gap-ms", 11, "--chunks", 64]
RATES = {
    "l1": ([], 1, False, "request"),
    "t32": ([], 32, False, "request"),
    "t256": ([], 256, False, "request"),
    "p256": (PACED, 256, True, "event"),
    "big": ([], 16, False, "request"),
}
OTHERS = ["burst", "idle", "streams"]


class Bench:
    """One run of all repetitions; `measured` holds a dictionary for each scenario, target and repetition."""

    def __init__(self, arguments, targets, raw):
        self.arguments = arguments
        self.targets = targets
        self.raw = raw
        self.measured = []

    def run(self):
        for repetition in range(self.arguments.repeat):
            shift = repetition % len(self.targets)
            for scenario in self.arguments.scenarios:
                direct_p50 = None
                order = self.targets[shift:] + self.targets[:shift]
                # Direct goes first: what is added is added to it, in the same repetition.
                for target in sorted(order, key=lambda target: target.name != "direct"):
                    found = self.measure(scenario, target, repetition)
                    if target.name == "direct":
                        direct_p50 = found.get("p50_us")
                    elif direct_p50 is not None:
                        found["added_p50_us"] = found["p50_us"] - direct_p50
                    self.keep({"scenario": scenario, "target": target.name, "repetition": repetition, **found})

    def keep(self, line):
        self.measured.append(line)
        self.raw.write(json.dumps(line) + "\n")
        self.raw.flush()
        shown = {key: round(value, 2) for key, value in line.items() if isinstance(value, float)}
        print(f"{line['scenario']:8} {line['target']:24} {shown}", file=sys.stderr, flush=True)

    def measure(self, scenario, target, repetition):
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dataplane-"))
            load = os.getloadavg()[0]
            flags = {"burst": ["--burst", "--gap-ms", 20], "streams": ["--gap-ms", 500, "--chunks", 40]}
            backend_flags = RATES[scenario][0] if scenario in RATES else flags.get(scenario, [])
            backends = [self.backend(stack, backend_flags, folder, number) for number in range(2)]
            proxy, port = None, backends[0]
            if target.name != "direct":
                port = free_port()
                command = target.command(port, backends, folder)
                proxy = stack.enter_context(Process(command, PROXY_CORE, f"{folder}/proxy.log"))
                proxy.wait_until_listening(port)
                wait_until_answering(port)
            if scenario in RATES:
                found = self.rate(scenario, proxy, port, backends, folder)
                if proxy and repetition == 0 and self.arguments.syscalls:
                    found |= self.syscalls(scenario, proxy, port, backends, folder)
            else:
                found = {"burst": burst, "idle": idle, "streams": streams}[scenario](proxy, port)
            return {"load_average": load, **found}

    def backend(self, stack, flags, folder, number):
        log = Path(folder) / f"backend{number}.log"
        process = stack.enter_context(Process([self.arguments.backend, *flags], LOAD_CORE, log))
        deadline = time.monotonic() + 5
        while not (line := log.read_text()).endswith("\n"):
            if time.monotonic() > deadline:
                process.fail("does not say where it listens")
            time.sleep(0.01)
        port = int(line.rpartition(":")[2])
        process.wait_until_listening(port)
        return port

    def load(self, scenario, port, seconds, folder, core):
        _, connections, stream, _ = RATES[scenario]
        prompts = loads.bodies(stream)
        if scenario == "big":
            prompts = loads.bodies(stream, groups=16, users=1, system_bytes=220_000)
        return loads.Wrk(port, connections, seconds, prompts, folder, core)

    def rate(self, scenario, proxy, port, backends, folder):
        seconds = self.arguments.seconds
        core = LOAD_CORE if proxy else PROXY_CORE
        with self.load(scenario, port, WARM_UP_SECONDS + seconds + 1, folder, core) as wrk:
            time.sleep(WARM_UP_SECONDS)
            before = self.sample(proxy, backends)
            time.sleep(seconds)
            after = self.sample(proxy, backends)
            memory = proxy.pss_kib() if proxy else 0
            found = wrk.result()
        spent = {name: after[name] - before[name] for name in before}
        done = spent["events"] if RATES[scenario][3] == "event" else spent["requests"]
        found |= {"per_second": done / spent["at"]}
        if proxy and done:
            cpu_us = spent["cpu"] / done * 1e6
            found |= {
                "cpu_us": cpu_us,
                "per_core_second": 1e6 / cpu_us,
                "switches": spent["switches"] / done,
                "pss_kib": memory,
                "others_on_core": (spent["busy"] - spent["cpu"]) / spent["at"],
            }
        return found

    def sample(self, proxy, backends):
        counts = [loads.count(port) for port in backends]
        return {
            "at": time.monotonic(),
            "requests": sum(requests for requests, _ in counts),
            "events": sum(events for _, events in counts),
            "cpu": proxy.cpu_seconds() if proxy else 0,
            "switches": proxy.context_switches() if proxy else 0,
            "busy": core_busy_seconds(PROXY_CORE),
        }

    def syscalls(self, scenario, proxy, port, backends, folder):
        """A run of its own: counting costs time. Everything between the first and the last request counts."""
        before = self.sample(proxy, backends)
        with SyscallCount(proxy, folder) as counter:
            with self.load(scenario, port, SYSCALL_SECONDS, folder, LOAD_CORE) as wrk:
                wrk.result()
        after = self.sample(proxy, backends)
        kind = RATES[scenario][3] + "s"
        done = after[kind] - before[kind]
        if counter.counts is None or not done:
            return {}
        each = {name: round(count / done, 3) for name, count in counter.counts.items()}
        return {"syscalls": each.pop("total"), "syscalls_by_name": each}


def burst(proxy, port):
    """The gap between the two events of a pair that the backend sends at once, over streams one after another."""
    body = loads.bodies(True)[0]
    gaps = []
    for _ in range(4):
        times = loads.event_times(port, body)
        gaps += [(second - first) * 1e3 for first, second in zip(times[:64:2], times[1:64:2])]
    return {"gap_p50_ms": statistics.median(gaps), "gap_max_ms": max(gaps), "gaps": len(gaps)}


def idle(proxy, port):
    """Memory of connections that have had one answer and wait for their next request."""
    return grown(proxy, lambda: loads.idle_connections(port, IDLE_CONNECTIONS, loads.bodies(False)[0]))


def streams(proxy, port):
    """Memory of streams under way, each with its connections to both sides."""
    return grown(proxy, lambda: loads.open_streams(port, OPEN_STREAMS, loads.bodies(True)[0]))


def grown(proxy, open_connections):
    start = proxy.pss_kib() if proxy else 0
    opened = open_connections()
    end = proxy.pss_kib() if proxy else 0
    for connection in opened:
        connection.close()
    return {"start_kib": start, "pss_kib": end, "each_kib": (end - start) / len(opened)} if proxy else {}


def wait_until_answering(port):
    """A proxy may listen before it has found its backends healthy."""
    deadline = time.monotonic() + 15
    while True:
        try:
            with loads.connect(port) as connection:
                connection.sendall(loads.request_bytes(loads.bodies(False)[0]))
                return loads.answered(connection)
        except (OSError, RuntimeError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def environment(arguments, targets):
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "kernel": platform.release(),
        "processor": model[0].partition(": ")[2] if model else platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "versions": {target.name: target.version() for target in targets if target.name != "direct"},
        "repeat": arguments.repeat,
        "seconds": arguments.seconds,
    }


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    release = ROOT / "target" / "release"
    scenarios = [*RATES, *OTHERS]
    parser.add_argument("--repeat", type=int, default=3, help="repetitions of everything")
    parser.add_argument("--seconds", type=int, default=8, help="measured seconds of each rate scenario")
    parser.add_argument("--scenarios", default=",".join(scenarios), help="which ones, with commas")
    parser.add_argument("--proxies", help="which ones, with commas (default: all that are found)")
    parser.add_argument(
        "--evenload",
        action="append",
        metavar="[LABEL=]PATH",
        help="the evenload to measure; repeat it to compare builds (default: target/release/evenload)",
    )
    parser.add_argument("--backend", default=release / "examples" / "fixed_backend", help="the fixed backend")
    parser.add_argument("--no-syscalls", dest="syscalls", action="store_false", help="skip counting system calls")
    parser.add_argument("--output", default=ROOT / "docs" / "benchmarks" / "raw", help="folder of the raw lines")
    arguments = parser.parse_args()
    arguments.scenarios = arguments.scenarios.split(",")
    if unknown := set(arguments.scenarios) - set(scenarios):
        parser.error(f"unknown scenario {', '.join(unknown)}; known: {', '.join(scenarios)}")
    if not Path(arguments.backend).exists():
        parser.error(f"{arguments.backend} is missing: cargo build --release -p gateway --example fixed_backend")
    found = proxies.known(arguments.evenload or [str(release / "evenload")])
    names = arguments.proxies.split(",") if arguments.proxies else [name for name in found if name != "direct"]
    if unknown := set(names) - set(found):
        parser.error(f"not found: {', '.join(unknown)}; found: {', '.join(found)}")
    return arguments, [found[name] for name in ["direct", *names]]


def main():
    arguments, targets = parse_arguments()
    # Ended from outside, it ends what it started too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.sched_setaffinity(0, {LOAD_CORE})
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"dataplane-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}.jsonl"
    with path.open("w") as raw:
        about = environment(arguments, targets)
        raw.write(json.dumps(about) + "\n")
        bench = Bench(arguments, targets, raw)
        bench.run()
    others = [line["others_on_core"] for line in bench.measured if "others_on_core" in line]
    print(f"{about['processor']}, {about['cores']} cores, Linux {about['kernel']}, commit {about['commit']};")
    print(f"{arguments.repeat} repetitions of {arguments.seconds} s;", end=" ")
    print(f"load average at the start {about['load_average'][0]:.2f};", end=" ")
    if others:
        print(f"other work on the proxy's core: median {statistics.median(others):.0%}, at most {max(others):.0%}")
    print("; ".join(f"{name}: {version}" for name, version in about["versions"].items()))
    print()
    print(tables.figures(bench.measured, targets))
    print(tables.syscalls(bench.measured))
    print(f"\nraw: {path}")


if __name__ == "__main__":
    main()
