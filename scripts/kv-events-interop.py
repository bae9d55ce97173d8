#!/usr/bin/env python3
"""Checks that evenload's cache events and libzmq's and msgspec's understand one another, both ways.

    python -m venv venv && venv/bin/pip install pyzmq msgspec
    venv/bin/python scripts/kv-events-interop.py target/release/evenload

1. The engine publishes in each format; a libzmq subscriber reads it with structs declared as vLLM and SGLang declare
   theirs, and a DEALER socket has it replayed.
2. A libzmq publisher sends what those structs encode, over a restart; the balancer's metrics must agree.
"""

import http.server
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from typing import Any, Optional, Union

import msgspec
import zmq

EVENLOAD = sys.argv[1] if len(sys.argv) > 1 else "evenload"
END = b"\xff" * 8
TOKENS = list(range(1000, 1032))


def structs(maps: bool, batch_maps: bool = False):
    """The events of an engine: as maps with a type, or as arrays."""
    options = {"omit_defaults": True, "gc": False}

    class BlockStored(msgspec.Struct, tag=True, array_like=not maps, **options):
        block_hashes: list[Union[bytes, int]]
        parent_block_hash: Union[bytes, int, None]
        token_ids: list[int]
        block_size: int
        lora_id: Optional[int] = None
        medium: Optional[str] = None
        lora_name: Optional[str] = None
        extra_keys: Optional[list[Any]] = None

    class BlockRemoved(msgspec.Struct, tag=True, array_like=not maps, **options):
        block_hashes: list[Union[bytes, int]]
        medium: Optional[str] = None

    class AllBlocksCleared(msgspec.Struct, tag=True, array_like=not maps, **options):
        pass

    class KVEventBatch(msgspec.Struct, array_like=not batch_maps, tag=batch_maps or None, **options):
        ts: float
        events: list[Union[BlockStored, BlockRemoved, AllBlocksCleared]]
        data_parallel_rank: Optional[int] = None

    return BlockStored, BlockRemoved, AllBlocksCleared, KVEventBatch


def get(url: str, body: Optional[dict] = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def engine_to_libzmq(context: zmq.Context, wire: str) -> None:
    engine = subprocess.Popen(
        [EVENLOAD, "engine", "--port", "0", "--kv-events-port", "0", "--kv-events-format", wire, "--speedup", "50"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        events, replay = re.search(r"(tcp://\S+), replay (tcp://\S+)", engine.stderr.readline()).groups()
        base = engine.stdout.readline().strip()
        subscriber = context.socket(zmq.SUB)
        subscriber.setsockopt(zmq.RCVTIMEO, 5000)
        subscriber.connect(events)
        subscriber.subscribe(b"")
        time.sleep(0.5)
        get(base + "/v1/completions", {"prompt": "0123456789abcdef" * 16, "max_tokens": 20})
        _, number, payload = subscriber.recv_multipart()
        stored, _, _, batch_type = structs(maps=wire in ("vllm", "vllm-digests"))
        batch = msgspec.msgpack.decode(payload, type=batch_type)
        event = batch.events[0]
        assert int.from_bytes(number, "big") == 0 and isinstance(event, stored), batch
        assert len(event.block_hashes) == 4 and event.parent_block_hash is None and event.block_size == 16, event
        assert event.token_ids[:4] == [int.from_bytes(word, "little") for word in (b"0123", b"4567", b"89ab", b"cdef")]
        kind = bytes if wire == "vllm-digests" else int
        assert all(isinstance(block, kind) for block in event.block_hashes), event
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.RCVTIMEO, 5000)
        dealer.connect(replay)
        dealer.send_multipart([b"", bytes(8)])
        replayed = []
        while (message := dealer.recv_multipart())[1] != END:
            replayed.append(message)
        assert replayed[0][1:] == [number, payload], replayed
        print(f"engine -> libzmq, {wire}: {len(replayed)} batches replayed, hashes are {kind.__name__}")
    finally:
        engine.terminate()
        engine.wait()


class Tokenizer(http.server.BaseHTTPRequestHandler):
    """An engine as far as HTTP is concerned: it answers, and tells tokens."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        answer = {"tokens": TOKENS} if self.path == "/tokenize" else {"choices": [], "usage": {"completion_tokens": 1}}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Publisher:
    """Sends batches and replays them, as the engines' publishers do."""

    def __init__(self, context: zmq.Context, ports: Optional[tuple[int, int]] = None) -> None:
        self.pub, self.router = context.socket(zmq.PUB), context.socket(zmq.ROUTER)
        for socket in (self.pub, self.router):
            socket.setsockopt(zmq.LINGER, 0)
        if ports is None:
            self.ports = tuple(s.bind_to_random_port("tcp://127.0.0.1") for s in (self.pub, self.router))
        else:
            self.ports = ports
            for socket, port in zip((self.pub, self.router), ports):
                socket.bind(f"tcp://127.0.0.1:{port}")
        self.sent: list[bytes] = []
        self.over = False
        self.thread = threading.Thread(target=self.replay, daemon=True)
        self.thread.start()

    def send(self, batch: Any, lose: bool = False) -> None:
        payload = msgspec.msgpack.encode(batch)
        self.sent.append(payload)
        if not lose:
            self.pub.send_multipart([b"kv@pod@model", (len(self.sent) - 1).to_bytes(8, "big"), payload])

    def replay(self) -> None:
        while not self.over:
            if self.router.poll(50):
                client, _, start = self.router.recv_multipart()
                for number, payload in enumerate(self.sent):
                    if number >= int.from_bytes(start, "big"):
                        self.router.send_multipart([client, b"", number.to_bytes(8, "big"), payload])
                self.router.send_multipart([client, b"", END, b""])

    def close(self) -> None:
        self.over = True
        self.thread.join()
        self.pub.close()
        self.router.close()


def libzmq_to_balancer(context: zmq.Context, name: str, maps: bool, batch_maps: bool, digests: bool) -> None:
    stored, removed, cleared, batch = structs(maps, batch_maps)
    hashed = (lambda n: n.to_bytes(32, "big")) if digests else (lambda n: -n)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tokenizer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    publisher = Publisher(context)
    balancer = subprocess.Popen(
        [EVENLOAD, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--policy", "prefix_aware",
         "--check-interval-s", "0", "--replica", f"http://127.0.0.1:{server.server_port}",
         "--kv-events-port", str(publisher.ports[0]), "--kv-events-replay-port", str(publisher.ports[1])],
        stderr=subprocess.PIPE, text=True)
    try:
        admin = address = None
        while admin is None:
            line = balancer.stderr.readline()
            if found := re.search(r"address=(\S+) admin_address=(\S+)", line):
                address, admin = found.groups()
        threading.Thread(target=lambda: [None for _ in balancer.stderr], daemon=True).start()

        def wait(**wanted: int) -> None:
            deadline = time.time() + 10
            while True:
                page = get(f"http://{admin}/metrics")
                rows = {row.split("{")[0].split(" ")[0]: float(row.rsplit(" ", 1)[1])
                        for row in page.splitlines() if row.startswith("evenload_kv")}
                found = {key: rows.get(f"evenload_kv_event_{key}", rows.get(f"evenload_kv_event_{key}_total"))
                         for key in wanted}
                if found == wanted:
                    return
                assert time.time() < deadline, f"{name}: {found} and not {wanted}"
                time.sleep(0.05)

        wait(connected=1)
        time.sleep(0.2)
        publisher.send(batch(1.0, [stored([hashed(1), hashed(2)], None, TOKENS, 16, None, "GPU")]))
        wait(batches=1, blocks=2)
        get(f"http://{address}/v1/completions", {"model": "m", "prompt": "x" * 128})
        wait(lessons=1, learned_blocks=2)
        publisher.send(batch(2.0, [removed([hashed(2)], "GPU")]), lose=True)
        publisher.send(batch(3.0, [stored([hashed(3)], hashed(1), TOKENS[:16], 16, None, "GPU")]))
        wait(gaps=1, losses=0, blocks=2, blocks_removed=1)
        publisher.send(batch(4.0, [cleared()]))
        wait(blocks=0)
        publisher.close()
        wait(connected=0)
        publisher = Publisher(context, publisher.ports)
        wait(connected=1, restarts=1, malformed=0, losses=0)
        print(f"libzmq -> balancer, {name}: stored, removed, cleared, a gap replayed, a restart seen")
    finally:
        balancer.terminate()
        balancer.wait()
        publisher.close()
        server.shutdown()


def main() -> None:
    print(f"pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}, msgspec {msgspec.__version__}")
    context = zmq.Context()
    for wire in ("vllm", "vllm-digests", "vllm-arrays", "sglang"):
        engine_to_libzmq(context, wire)
    libzmq_to_balancer(context, "maps, digests", True, False, True)
    libzmq_to_balancer(context, "arrays, digests", False, False, True)
    libzmq_to_balancer(context, "arrays, integers", False, False, False)
    libzmq_to_balancer(context, "maps in maps, integers", True, True, False)


if __name__ == "__main__":
    main()
