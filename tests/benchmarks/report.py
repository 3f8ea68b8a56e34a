"""The results as Markdown tables and as JSON."""

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tests.benchmarks.data import seconds_per_new_file
from tests.benchmarks.luigi_cost import BlobCost, Start
from tests.benchmarks.luigid_cost import LuigidCost
from tests.benchmarks.measuring import Cost
from tests.benchmarks.running import Findings
from tests.benchmarks.ways import OPERATIONS, Way

_OURS = "pipeline"


def machine(folder: Path) -> dict[str, object]:
    """Return what the results depend on."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "file system": _file_system(folder),
        **state(folder),
    }


def state(folder: Path) -> dict[str, object]:
    """Return how busy the machine is."""
    load = [round(load, 2) for load in os.getloadavg()]
    return {"load": load, "ms per new file": round(seconds_per_new_file(folder) * 1000, 3)}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def _file_system(folder: Path) -> str:
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "unknown"
    holding = [(point, kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
    return max(holding, key=lambda mount: len(mount[0]), default=("", "unknown"))[1]


def markdown(findings: Findings, ways: Sequence[Way]) -> str:
    """Return the tables of a case: seconds, what ours is in multiples of others, processor time and memory."""
    names = [way.name for way in ways]
    medians = {operation: findings.medians(operation) for operation in OPERATIONS}

    def rows(names: Iterable[str], show: Callable[[str, Cost], str]) -> list[list[str]]:
        return [
            [operation, *(show(operation, found[name]) if name in found else "–" for name in names)]
            for operation, found in medians.items()
        ]

    def ratio(operation: str, cost: Cost) -> str:
        ours = medians[operation].get(_OURS)
        return f"{ours.seconds / cost.seconds:.2f}" if ours else "–"

    others = [name for name in names if name != _OURS]
    tables = [
        table(["seconds", *names], rows(names, lambda _, cost: _seconds(cost))),
        table([f"{_OURS} /", *others], rows(others, ratio)),
        table(["CPU s / peak MB", *names], rows(names, lambda _, cost: f"{cost.cpu:.2f} / {cost.memory:.0f}")),
    ]
    notes = [f"{way} failed and is left out: {'; '.join(reason.splitlines()[-2:])}." for way, reason in findings.failed]
    return "\n\n".join([f"## {findings.case}", *tables, *notes]) + "\n"


def luigi_markdown(start: Start, blobs: Iterable[BlobCost], through_luigid: Iterable[LuigidCost]) -> str:
    """Return the tables of what Luigi costs."""
    starts = [
        ['`python -c "import luigi"`', f"{start.luigi.seconds:.2f}", ""],
        ['`python -c "import luigi, pipeline"`', _seconds(start.pipeline), _more(start.pipeline, start)],
        ["`PublishRelease`, nothing to do", _seconds(start.nothing), _more(start.nothing, start)],
    ]
    costs = [
        [
            f"{cost.blobs:,}",
            *map(_seconds, (cost.publish, cost.nothing)),
            *map(_milliseconds, (cost.above_start, cost.above_nothing, cost.of_sketch)),
            f"{cost.publish.memory:.0f} / {cost.sketch.memory:.0f}",
        ]
        for cost in blobs
    ]
    heading = ["blobs, all in the archive", "without the record s", "with it s"]
    heading += ["ms per blob over the start", "ms per blob over a no-op", "ms per task that does nothing"]
    heading += ["peak MB / of such tasks"]
    tables = [table(["start", "seconds", "more than Luigi"], starts)] + ([table(heading, costs)] if costs else [])
    through = [
        [f"{cost.blobs:,}", _seconds(cost.publish), _seconds(cost.calls), f"{cost.ratio:.2f}"]
        for cost in through_luigid
    ]
    if through:
        tables.append(table(["blobs, through luigid", "publish s", "bare calls s", "ratio without starts"], through))
    return "\n\n".join(["## What Luigi costs", *tables]) + "\n"


def _seconds(cost: Cost) -> str:
    return f"{cost.seconds:.2f}"


def _milliseconds(value: float) -> str:
    return f"{value:.3f}"


def _more(cost: Cost, start: Start) -> str:
    return f"{cost.seconds - start.luigi.seconds:.2f}"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_json(findings: Findings) -> dict[str, Any]:
    """Return a case for JSON: every round, the medians, and what ours is in multiples of others."""
    operations = {}
    for operation in OPERATIONS:
        medians = findings.medians(operation)
        ours = medians.get(_OURS)
        operations[operation] = {
            way: {
                "median": cost._asdict(),
                "rounds": [each._asdict() for each in findings.costs[operation][way]],
                "ours_in_multiples": ours.seconds / cost.seconds if ours else None,
            }
            for way, cost in medians.items()
        }
    return {"case": findings.case, "operations": operations, "failed": dict(findings.failed)}


def luigi_as_json(start: Start, blobs: Iterable[BlobCost], through_luigid: Iterable[LuigidCost]) -> dict[str, Any]:
    """Return what Luigi costs, for JSON."""
    costs = [
        {name: figure._asdict() if isinstance(figure, Cost) else figure for name, figure in cost._asdict().items()}
        for cost in blobs
    ]
    starts = {name: cost._asdict() for name, cost in start._asdict().items()}
    through = [
        {**cost._asdict(), "publish": cost.publish._asdict(), "calls": cost.calls._asdict()} for cost in through_luigid
    ]
    return {"start": {**starts, "added": start.added}, "blobs": costs, "luigid": through}
