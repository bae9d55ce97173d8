#!/usr/bin/env python3
"""The same runs by AIPerf and by evenload, side by side.

    python3 -m venv venv && venv/bin/pip install aiperf==0.13.0
    cargo build --release
    python3 scripts/beside_aiperf.py --aiperf venv/bin/aiperf [--rates 10,50,200] [--requests 300]

Both load the same two engines of known latencies (`evenload engine --fixed-ttft-ms 50 --fixed-itl-ms 10`, two
replicas) one after the other, with the same flags. AIPerf gets a tokenizer of bytes, made here, because it loads one in
any case; both count tokens by the server's usage. Writes docs/benchmarks/raw/beside-aiperf-DATE.jsonl: what and where
in the first line, a run in each further one. CPU time is that of the whole process tree.
"""

import argparse
import datetime
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from machine import commit

ROOT = pathlib.Path(__file__).resolve().parent.parent


def make_tokenizer(folder):
    """A byte-level tokenizer without merges: a token a byte."""
    visible = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    letters = [chr(byte) for byte in visible] + [chr(256 + place) for place in range(256 - len(visible))]
    parts = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    model = {"type": "BPE", "vocab": {letter: place for place, letter in enumerate(letters)}, "merges": []}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
                 "pre_tokenizer": parts, "post_processor": None, "decoder": parts, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 1000000}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def run(command, log):
    """Seconds on the clock, and of CPU time with all children."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with open(log, "w") as out:
        status = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return status, time.monotonic() - began, cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aiperf", required=True)
    parser.add_argument("--evenload", default=str(ROOT / "target/release/evenload"))
    parser.add_argument("--rates", default="10,50,200")
    parser.add_argument("--requests", type=int, default=300)
    arguments = parser.parse_args()

    ttft, itl, tokens = 50, 10, 16
    engine = subprocess.Popen(
        [arguments.evenload, "engine", "--replicas", "2", "--port", "0", "--served-model-name", "model",
         "--fixed-ttft-ms", str(ttft), "--fixed-itl-ms", str(itl)],
        stdout=subprocess.PIPE, text=True)
    urls = [engine.stdout.readline().strip() for _ in range(2)]
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    raw = ROOT / "docs/benchmarks/raw" / f"beside-aiperf-{stamp}.jsonl"
    head = {"what": f"AIPerf 0.13.0 and evenload profile against engines of TTFT {ttft} ms and ITL {itl} ms",
            "commit": commit(), "cores": os.cpu_count(), "load_average_before": os.getloadavg()}
    lines = [head]
    try:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            make_tokenizer(folder)
            for rate in arguments.rates.split(","):
                requests = min(arguments.requests, int(float(rate) * 30))
                flags = ["--model", "model", "--endpoint-type", "chat", "--streaming", "--request-rate", rate,
                         "--request-count", str(requests), "--isl", "100", "--osl", str(tokens),
                         "--extra-inputs", "ignore_eos:true", "--random-seed", "1", "--use-server-token-count",
                         "--no-gpu-telemetry", "--ui", "none"]
                for url in urls:
                    flags += ["--url", url]
                for tool, command in [
                    ("aiperf", [arguments.aiperf, "profile", "--tokenizer", str(folder)]),
                    ("evenload", [arguments.evenload, "profile"]),
                ]:
                    out = folder / f"{tool}-{rate}"
                    status, wall, cpu = run(command + flags + ["--output-artifact-dir", str(out)], folder / "log")
                    if status != 0:
                        print((folder / "log").read_text()[-2000:], file=sys.stderr)
                        continue
                    result = json.loads((out / "profile_export_aiperf.json").read_text())
                    times = result["time_to_first_token"]
                    line = {"tool": tool, "rate": float(rate), "requests": requests,
                            "ttft_error_p50_ms": round(times["p50"] - ttft, 3),
                            "ttft_error_p99_ms": round(times["p99"] - ttft, 3),
                            "itl_error_avg_ms": round(result["inter_token_latency"]["avg"] - itl, 3),
                            "request_throughput": round(result["request_throughput"]["avg"], 2),
                            "wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}
                    lines.append(line)
                    print(json.dumps(line))
    finally:
        engine.terminate()
        engine.wait()
    raw.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"raw output: {raw}")


if __name__ == "__main__":
    main()
