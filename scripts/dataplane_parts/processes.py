"""Processes pinned to a core, and what they cost: CPU time, memory, context switches, system calls.

Every process started here is ended by its pid when its `with` block is left, whatever happened inside.
"""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
READY_SECONDS = 15
STOP_SECONDS = 5

# What a proxy may call; perf opens one counter each. The total counts all others too.
SYSCALLS = [
    "read", "readv", "recvfrom", "recvmsg", "write", "writev", "sendto", "sendmsg", "sendfile64", "splice",
    "epoll_wait", "epoll_pwait", "epoll_pwait2", "epoll_ctl", "io_uring_enter", "accept", "accept4", "close", "socket",
    "connect", "getsockopt", "setsockopt", "getsockname", "getpeername", "shutdown", "ioctl", "fcntl", "futex",
    "timerfd_settime", "clock_gettime", "getpid", "sched_yield", "madvise", "mmap", "munmap", "brk",
]  # fmt: skip


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A command with its children, pinned to `core`; standard output and error go to `log`."""

    def __init__(self, command, core, log, environment=None):
        self.command = [str(part) for part in command]
        self.core = core
        self.log = Path(log)
        self.environment = {**os.environ, **(environment or {})}

    def __enter__(self):
        with self.log.open("wb") as output:
            self.child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment,
                preexec_fn=lambda: os.sched_setaffinity(0, {self.core}),
            )
        return self

    def __exit__(self, *_):
        self.child.terminate()
        try:
            self.child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait(STOP_SECONDS)

    def fail(self, what):
        tail = self.log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{what}: {' '.join(self.command)}\n{tail}")

    def wait_until_listening(self, port):
        """Waits until `port` is listened on, by this process or its children and by nobody else."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                self.fail(f"ended with status {self.child.returncode} before it listened")
            listening = listening_inodes(port)
            if listening and listening <= self.socket_inodes():
                return
            time.sleep(0.02)
        self.fail(f"does not listen on port {port} (or somebody else does)")

    def pids(self):
        """Its own pid and those of its children, their children and so on."""
        found = []
        todo = [self.child.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").iterdir():
                todo += map(int, (task / "children").read_text().split())
        return found

    def socket_inodes(self):
        links = []
        for pid in self.pids():
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                try:
                    links.append(os.readlink(descriptor))
                except FileNotFoundError:
                    continue
        return {link[8:-1] for link in links if link.startswith("socket:[")}

    def cpu_seconds(self):
        """User and system time of all its threads and children."""
        ticks = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS_PER_SECOND

    def pss_kib(self):
        """Memory that is its own, and its share of what it shares."""
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total

    def context_switches(self):
        total = 0
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").iterdir():
                for line in (task / "status").read_text().splitlines():
                    if "ctxt_switches" in line:
                        total += int(line.split()[1])
        return total


class SyscallCount:
    """Counts the system calls of `process` while the `with` block runs; `counts` is None where perf cannot."""

    def __init__(self, process, folder):
        self.process = process
        self.output = Path(folder) / "syscalls.csv"
        self.counts = None

    def __enter__(self):
        known = Path("/sys/kernel/tracing/events/syscalls")
        names = [name for name in SYSCALLS if (known / f"sys_enter_{name}").exists()]
        events = ",".join(["raw_syscalls:sys_enter"] + [f"syscalls:sys_enter_{name}" for name in names])
        pids = ",".join(map(str, self.process.pids()))
        command = ["perf", "stat", "-x", ";", "-o", self.output, "-e", events, "-p", pids]
        try:
            self.perf = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except FileNotFoundError:
            self.perf = None
        time.sleep(3)  # perf opens its counters one by one and does not say when it is done
        return self

    def __exit__(self, *_):
        if self.perf is None:
            return
        if self.perf.poll() is None:
            self.perf.send_signal(signal.SIGINT)
        try:
            self.perf.wait(30)
        except subprocess.TimeoutExpired:
            self.perf.kill()
            self.perf.wait(STOP_SECONDS)
            return
        rows = [line.split(";") for line in self.output.read_text().splitlines() if ";" in line]
        counts = {row[2].rpartition("sys_enter")[2].lstrip("_"): int(row[0]) for row in rows if row[0].isdigit()}
        if counts.get(""):
            counts["total"] = counts.pop("")
            self.counts = {name: count for name, count in counts.items() if count}


def listening_inodes(port):
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return {row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}


def core_busy_seconds(core):
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
            return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND
    raise RuntimeError(f"no core {core}")
