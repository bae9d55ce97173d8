"""What the machine says of itself while something is measured."""


def stolen_ticks():
    """Ticks that the host took of all processors together, and all that passed."""
    with open("/proc/stat") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return ticks[7], sum(ticks)


def stolen_share(before):
    """Of the processors' time since `before`, an earlier `stolen_ticks()`."""
    taken, passed = (now - then for now, then in zip(stolen_ticks(), before))
    return round(taken / max(passed, 1), 4)
