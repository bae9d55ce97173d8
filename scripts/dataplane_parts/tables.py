"""The measurements as Markdown: figures by proxy, and system calls by name."""

import statistics

# The table: what it says, the scenario, the figure in the raw lines, factor, digits.
ROWS = [
    ("CPU µs per request, 1 connection", "l1", "cpu_us", 1, 1),
    ("p50 added, 1 connection, µs", "l1", "added_p50_us", 1, 0),
    ("CPU µs per request, 32 connections", "t32", "cpu_us", 1, 1),
    ("CPU µs per request, 256 connections", "t256", "cpu_us", 1, 1),
    ("CPU µs per paced event, 256 streams", "p256", "cpu_us", 1, 1),
    ("p50 added to a paced stream of 0.75 s, ms", "p256", "added_p50_us", 1e-3, 1),
    ("CPU µs per request, 220 KB prompts", "big", "cpu_us", 1, 0),
    ("220 KB prompts per second and core", "big", "per_core_second", 1, 0),
    ("burst: gap between two events at once, p50, ms", "burst", "gap_p50_ms", 1, 2),
    ("burst: the greatest gap, ms", "burst", "gap_max_ms", 1, 2),
    ("memory after start, MiB", "idle", "start_kib", 1 / 1024, 1),
    ("memory at the end of 256 connections, MiB", "t256", "pss_kib", 1 / 1024, 1),
    ("memory at the end of 256 streams, MiB", "p256", "pss_kib", 1 / 1024, 1),
    ("memory per idle connection, KiB", "idle", "each_kib", 1, 1),
    ("memory per open stream, KiB", "streams", "each_kib", 1, 1),
    ("context switches per request, 32 connections", "t32", "switches", 1, 2),
    ("context switches per paced event", "p256", "switches", 1, 2),
    ("system calls per request, 1 connection", "l1", "syscalls", 1, 2),
    ("system calls per request, 32 connections", "t32", "syscalls", 1, 2),
    ("system calls per paced event", "p256", "syscalls", 1, 2),
    ("errors, all scenarios", None, "errors", 1, 0),
]


def figures(measured, targets):
    names = [target.name for target in targets if target.name != "direct"]
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for title, scenario, figure, factor, digits in ROWS:
        cells = []
        for name in names:
            values = [
                line[figure] * factor
                for line in measured
                if line["target"] == name and scenario in (None, line["scenario"]) and figure in line
            ]
            cells.append(cell([sum(values)] if scenario is None else values, digits))
        if any(cells):
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(values, digits):
    if not values:
        return ""
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"**{middle}** [{min(values):.{digits}f}..{max(values):.{digits}f}]"


def syscalls(measured):
    lines = []
    for line in measured:
        if "syscalls_by_name" in line:
            ranked = sorted(line["syscalls_by_name"].items(), key=lambda item: -item[1])
            names = ", ".join(f"{name} {each:.2f}" for name, each in ranked if each >= 0.005)
            lines.append(f"| {line['scenario']} | {line['target']} | {line['syscalls']:.2f} | {names} |")
    if not lines:
        return ""
    return "\n".join(["", "| | | system calls each | by name |", "|---|---|---|---|", *lines])
