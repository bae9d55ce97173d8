"""What is sent: wrk with prepared bodies for rates, raw sockets where the time or the memory of one stream counts."""

import json
import os
import random
import socket
import subprocess
import time
from pathlib import Path

PATH = "/v1/chat/completions"
WAIT_SECONDS = 30

# Cycles over the prepared bodies and prints what wrk measured as one line of JSON.
LUA = """
local requests, at = {{}}, 0
function init()
    local headers = {{ ["Content-Type"] = "application/json" }}
    for body in io.lines("{bodies}") do
        requests[#requests + 1] = wrk.format("POST", "{path}", headers, body)
    end
end
function request()
    at = at % #requests + 1
    return requests[at]
end
function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '\\n{{"requests":%d,"seconds":%f,"p50_us":%f,"p99_us":%f,"errors":%d}}\\n',
        summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


def text(generator, size):
    words = ["even", "load", "token", "prefix", "cache", "stream", "batch", "prompt", "replica", "balance"]
    out = []
    length = 0
    while length < size:
        word = generator.choice(words)
        out.append(word)
        length += len(word) + 1
    return " ".join(out)[:size]


def bodies(stream, groups=64, users=8, system_bytes=1500, user_bytes=400):
    """Chat requests in groups: one system prompt for each group, different user texts. Equal in every run."""
    generator = random.Random(7)
    made = []
    for _ in range(groups):
        system = text(generator, system_bytes)
        for _ in range(users):
            messages = [
                {"role": "system", "content": system},
                {"role": "user", "content": text(generator, user_bytes)},
            ]
            request = {"model": "m", "stream": stream, "max_tokens": 64, "messages": messages}
            made.append(json.dumps(request, separators=(",", ":")))
    generator.shuffle(made)
    return made


class Wrk:
    """wrk with one thread, which runs while the `with` block does; `result` waits for its end."""

    def __init__(self, port, connections, seconds, prompts, folder, core):
        script = Path(folder) / "load.lua"
        lines = Path(folder) / "bodies.txt"
        lines.write_text("\n".join(prompts) + "\n")
        script.write_text(LUA.format(bodies=lines, path=PATH))
        self.command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "-s", str(script)]
        self.command.append(f"http://127.0.0.1:{port}")
        self.limit = seconds + WAIT_SECONDS
        self.core = core

    def __enter__(self):
        self.child = subprocess.Popen(
            self.command,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {self.core}),
        )
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()

    def result(self):
        output, _ = self.child.communicate(timeout=self.limit)
        line = output.strip().splitlines()[-1]
        if not line.startswith("{"):
            raise RuntimeError(f"wrk ended with:\n{output}")
        return json.loads(line)


def request_bytes(body):
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def connect(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def receive(connection):
    data = connection.recv(65536)
    if not data:
        raise RuntimeError("the connection was closed before the end of the answer")
    return data


def count(port):
    """Requests answered and events sent so far by a fixed backend."""
    with connect(port) as connection:
        connection.sendall(b"GET /count HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
    requests, events = answer.rpartition(b"\r\n\r\n")[2].split()
    return int(requests), int(events)


def answered(connection):
    """Reads one whole answer of a known length."""
    answer = receive(connection)
    while b"\r\n\r\n" not in answer:
        answer += receive(connection)
    head, _, rest = answer.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"not answered: {answer[:300]!r}")
    while len(rest) < length:
        rest += receive(connection)


def event_times(port, body):
    """When each event of one stream was complete, in seconds."""
    with connect(port) as connection:
        connection.sendall(request_bytes(body))
        times = []
        answer = b""
        while b"data: [DONE]\n\n" not in answer:
            answer += receive(connection)
            now = time.perf_counter()
            times += [now] * (answer.count(b"\n\n") - len(times))
        return times


def idle_connections(port, number, body):
    """Opens connections and sends one request on each; they stay open."""
    opened = []
    for _ in range(number):
        connection = connect(port)
        opened.append(connection)
        connection.sendall(request_bytes(body))
        answered(connection)
    return opened


def open_streams(port, number, body):
    """Starts streams and reads up to the first event of each; they go on."""
    opened = []
    for _ in range(number):
        connection = connect(port)
        opened.append(connection)
        connection.sendall(request_bytes(body))
    for connection in opened:
        answer = b""
        while b"\n\n" not in answer.partition(b"\r\n\r\n")[2]:
            answer += receive(connection)
    return opened
