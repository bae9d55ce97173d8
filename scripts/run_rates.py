#!/usr/bin/env python3
"""Is the rate that was asked for the rate that was sent? `evenload run` at 100, 1,000 and 10,000 requests/s, unary, against
a server that answers at once on the same machine; side by side with inference-perf, if --peer names its command.

    cargo build --release
    python3 scripts/run_rates.py --evenload target/release/evenload [--peer /path/to/inference-perf] > raw.txt

The server is a `evenload engine` whose steps take next to no time. Each line is one run: what was asked for, what was
sent, percentiles of the schedule delay, its causes, CPU seconds of the client, and what the client says about itself. Of
the causes, `machine` is others that had the processor, and `client` the rest of our own lateness. The load of the machine
before and after each run stands beside it, and the share of its processors' time that the host of a virtual machine took
(`stolen`): with much of either the figures say little. Such a run is repeated, up to --tries times; every try is a line.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

from machine import commit, stolen_share, stolen_ticks

# More than this can be all of a P99.
STOLEN = 0.005
MODEL = "llama-3.1-8b-instruct"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evenload", default="target/release/evenload")
    parser.add_argument("--peer", help="inference-perf's command")
    parser.add_argument("--rates", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--peer-seconds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--tries", type=int, default=5, help="until so little is stolen that a P99 can be believed")
    return parser.parse_args()


def start_engine(binary):
    command = [binary, "engine", "--port", "0", "--speedup", "100000", "--served-model-name", MODEL,
               "--step-base-ms", "0.1", "--max-num-seqs", "4096"]
    engine = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return engine, engine.stdout.readline().strip()


def config(url, rate, seconds, folder, own):
    lines = [
        "load:", "  type: constant", "  num_workers: 2", "  worker_max_concurrency: 1000", "  base_seed: 1",
        "  interval: 0", f"  stages: [{{rate: {rate}, duration: {seconds}}}]",
        f"server: {{type: vllm, base_url: \"{url}\", model_name: {MODEL}}}",
        "data: {type: mock}",
        f"storage: {{local_storage: {{path: {folder}}}}}",
    ]
    if not own:
        lines.append(f"tokenizer: {{pretrained_model_name_or_path: {os.environ.get('PEER_TOKENIZER', 'gpt2')}}}")
    return "\n".join(lines) + "\n"


def run(name, command, url, rate, seconds, own):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "config.yml")
        with open(path, "w") as file:
            file.write(config(url, rate, seconds, os.path.join(folder, "out"), own))
        load = os.getloadavg()[0]
        stolen = stolen_ticks()
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
        done = subprocess.run(command + ["--config_file", path], capture_output=True, text=True, cwd=folder, timeout=600)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        line = {"tool": name, "asked": rate, "seconds": seconds, "cpu_s": round(cpu, 2),
                "stolen": stolen_share(stolen),
                "wall_s": round(time.time() - began, 1), "loadavg": [round(load, 1), round(os.getloadavg()[0], 1)]}
        report = os.path.join(folder, "out", "stage_0_lifecycle_metrics.json")
        if not os.path.exists(report):
            line["failed"] = done.stderr.strip().splitlines()[-1:] or done.returncode
            return line
        with open(report) as file:
            stage = json.load(file)
        summary, delay = stage["load_summary"], stage["load_summary"]["schedule_delay"]
        # By our formula for both: gaps by the time of the gaps.
        sent = (summary["count"] - 1) / summary["send_duration"]
        line.update({
            "sent": round(sent, 2), "off_percent": round(100 * (sent / rate - 1), 3), "answered": stage["successes"]["count"],
            "delay_ms": {key: round(1e3 * delay[key], 3) for key in ["median", "p99", "max"]},
            "latency_ms": {key: round(1e3 * stage["successes"]["latency"]["request_latency"][key], 3) for key in ["median", "p99"]},
        })
        if own:
            causes = stage["evenload"]["schedule_delay"]
            line["delay_p99_ms_by_cause"] = {cause: round(1e3 * values["p99"], 3) for cause, values in causes.items() if values}
            said = [text.strip() for text in done.stdout.splitlines() if text.startswith(("Verdict", "  invalid", "  suspect"))]
            line["says"] = said
        return line


def main():
    arguments = parse()
    binary = os.path.abspath(arguments.evenload)
    print(json.dumps({"commit": commit(), "machine": os.cpu_count(), "kernel": os.uname().release,
                      "time": time.strftime("%FT%TZ", time.gmtime())}))
    for _ in range(arguments.repeat):
        for rate in arguments.rates:
            engine, url = start_engine(binary)
            try:
                for _ in range(arguments.tries):
                    line = run("evenload run", [binary, "run"], url, rate, arguments.seconds, True)
                    print(json.dumps(line), flush=True)
                    if line["stolen"] < STOLEN:
                        break
                if arguments.peer:
                    line = run("inference-perf 0.7.0", [arguments.peer], url, rate, arguments.peer_seconds, False)
                    print(json.dumps(line), flush=True)
            finally:
                engine.terminate()
                engine.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
