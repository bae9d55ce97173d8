#!/usr/bin/env python3
"""Does AIPerf 0.13 read the files of `evenload profile`? Its own models parse them; a file that they do not take fails.

    python3 -m venv venv && venv/bin/pip install aiperf==0.13.0
    evenload profile ... --output-artifact-dir DIR --slice-duration 1 --server-metrics-formats json,csv,jsonl \
        --export-level raw --export-http-trace --export-outputs-json
    venv/bin/python scripts/aiperf_reads.py DIR

Prints a line a file: what read it, and how many entries it found.
"""

import json
import pathlib
import sys

from aiperf.common.models.dataset_models import InputsFile
from aiperf.common.models.export_models import JsonExportData, TimesliceCollectionExportData
from aiperf.common.models.record_models import MetricRecordInfo, RawRecordInfo
from aiperf.common.models.server_metrics_models import ServerMetricsExportData, SlimRecord
from aiperf.common.models.trace_models import AioHttpTraceDataExport
from aiperf.plugin import plugins  # noqa: F401  registers the metrics
from aiperf.post_processors.outputs_json_record_processor import OutputFragment


def whole(path, model, count):
    parsed = model.model_validate(json.loads(path.read_text()))
    print(f"{path.name}: {model.__name__}, {count(parsed)} entries")


def lines(path, model):
    parsed = [model.model_validate_json(line) for line in path.read_text().splitlines()]
    print(f"{path.name}: {model.__name__}, {len(parsed)} entries")


def records(path):
    lines(path, MetricRecordInfo)
    traces = [json.loads(line).get("trace_data") for line in path.read_text().splitlines()]
    for trace in filter(None, traces):
        unknown = set(trace) - set(AioHttpTraceDataExport.model_fields) - set(AioHttpTraceDataExport.model_computed_fields)
        if unknown:
            sys.exit(f"{path.name}: trace_data has {unknown}")
        parsed = AioHttpTraceDataExport.model_validate(trace).model_dump()
        wrong = {key for key, value in trace.items() if key.endswith("_ns") and parsed[key] != value}
        if wrong:
            sys.exit(f"{path.name}: AIPerf computes other values for {wrong}")


def outputs(path):
    """AIPerf has no model of the file, but one of its entries; the keys of the file are those that its exporter writes."""
    data = json.loads(path.read_text())
    if set(data) != {"schema_version", "data"}:
        sys.exit(f"{path.name}: {set(data)}")
    wrong = [entry for entry in data["data"] if set(entry) != set(OutputFragment.model_fields)]
    if wrong:
        sys.exit(f"{path.name}: {wrong[0]}")
    parsed = [OutputFragment.model_validate(entry) for entry in data["data"]]
    print(f"{path.name}: OutputFragment, {len(parsed)} entries")


def main():
    folder = pathlib.Path(sys.argv[1])
    readers = {
        "profile_export_aiperf.json": lambda path: whole(path, JsonExportData, lambda data: len(data.model_dump(exclude_none=True))),
        "profile_export.jsonl": records,
        "profile_export_raw.jsonl": lambda path: lines(path, RawRecordInfo),
        "outputs.json": outputs,
        "profile_export_aiperf_timeslices.json": lambda path: whole(path, TimesliceCollectionExportData, lambda data: len(data.timeslices)),
        "inputs.json": lambda path: whole(path, InputsFile, lambda data: len(data.data)),
        "server_metrics_export.json": lambda path: whole(path, ServerMetricsExportData, lambda data: len(data.metrics)),
        "server_metrics_export.jsonl": lambda path: lines(path, SlimRecord),
    }
    found = 0
    for name, read in readers.items():
        path = folder / name
        if path.exists():
            read(path)
            found += 1
        else:
            print(f"{name}: not there")
    if found == 0:
        sys.exit(f"{folder}: no files of a run")


if __name__ == "__main__":
    main()
