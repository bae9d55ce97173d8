"""What is measured, and what the machine says of itself meanwhile."""

import pathlib
import subprocess


def commit():
    """Of this repository; `-dirty` if files differ from it."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=pathlib.Path(__file__).parent, capture_output=True, text=True).stdout.strip()


def stolen_ticks():
    """Ticks that the host took of all processors together, and all that passed."""
    with open("/proc/stat") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return ticks[7], sum(ticks)


def stolen_share(before):
    """Of the processors' time since `before`, an earlier `stolen_ticks()`."""
    taken, passed = (now - then for now, then in zip(stolen_ticks(), before))
    return round(taken / max(passed, 1), 4)
