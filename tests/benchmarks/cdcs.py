"""How close publishing to CDCS comes to the bare REST conversation: ``python -m tests.benchmarks.cdcs``.

Starts a real server on this machine, and publishes new random files of the same kind to it in turns, by PublishRelease
and by the plain script `bare_cdcs`. Both are whole processes, from start to end.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pipeline import CDCSArchive
from tests.benchmarks.measuring import Cost, measure, median
from tests.cdcs_server import USERS, CDCSServer
from tests.support import ROOT, Workshop

ALICE = USERS["alice"]
MIB = 2**20


class Case(NamedTuple):
    """Some files and how they are moved."""

    name: str
    files: int
    size: int
    threads: int


CASES = [
    Case("500 files of 4 KiB, 1 thread", 500, 4096, 1),
    Case("500 files of 4 KiB, 8 threads", 500, 4096, 8),
    Case("1 file of 300 MiB", 1, 300 * MIB, 1),
]


class Result(NamedTuple):
    """Medians of a case, and the ratios of their seconds: as they are, and without the start of the interpreter."""

    case: str
    rounds: int
    ratio: float
    ratio_started: float
    ours: Cost
    bare: Cost


def make_files(folder: Path, case: Case, seed: int) -> None:
    """Make the files of a case, in nested folders."""
    dice = random.Random(seed)
    for number in range(case.files):
        file = folder / f"{number % 10}" / f"{number}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as stream:
            for start in range(0, case.size, MIB):
                stream.write(dice.randbytes(min(MIB, case.size - start)))


def run(case: Case, rounds: int, server: CDCSServer, folder: Path, starts: dict[str, float]) -> Result:
    """Measure a case in turns."""
    costs: dict[str, list[Cost]] = {"PublishRelease": [], "bare": []}
    for number in range(rounds):
        ways: list[tuple[str, Callable[[Path], Cost]]] = [
            ("PublishRelease", lambda place: publish(place, case, server)),
            ("bare", lambda place: publish_bare(place, case, server)),
        ]
        for way, function in ways if number % 2 else reversed(ways):
            place = Path(tempfile.mkdtemp(dir=folder))
            make_files(place / f"project-{place.name.lower()}", case, random.randrange(2**60))
            costs[way].append(function(place))
    ours, bare = (median(costs[way]) for way in ("PublishRelease", "bare"))
    ratio = ours.seconds / bare.seconds
    started = (ours.seconds - starts["PublishRelease"]) / (bare.seconds - starts["bare"])
    return Result(case.name, rounds, ratio, started, ours, bare)


def start_times(rounds: int, folder: Path) -> dict[str, float]:
    """Return how many seconds the interpreter and the libraries of each way take to start."""
    modules = {"PublishRelease": "luigi, pipeline", "bare": "requests"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    commands = {way: [sys.executable, "-c", f"import {names}"] for way, names in modules.items()}
    return {
        way: median([measure(command, folder, environment) for _ in range(rounds)]).seconds
        for way, command in commands.items()
    }


def publish(place: Path, case: Case, server: CDCSServer) -> Cost:
    """Publish through Luigi."""
    (project,) = place.iterdir()
    workshop = Workshop(place)
    secrets = {"PIPELINE_USER": ALICE.name, "PIPELINE_PASSWORD": ALICE.password}
    command = workshop.command(
        "PublishRelease",
        project_directory=project,
        title=f"t{place.name.replace('_', '-')}x",
        release_version="1.0.0",
        archive=server.base_url,
        pipeline_threads=case.threads,
    )
    return measure(command, place, {**workshop.environment, **secrets})


def publish_bare(place: Path, case: Case, server: CDCSServer) -> Cost:
    """Publish by the plain script."""
    (project,) = place.iterdir()
    script = Path(__file__).with_name("bare_cdcs.py")
    arguments = [server.base_url, ALICE.name, ALICE.password, str(project), str(case.threads)]
    return measure([sys.executable, str(script), *arguments], place, dict(os.environ))


def main() -> None:
    """Print a table, and JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cdcs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default: 5)")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    options = parser.parse_args()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name, CDCSServer(Path(name) / "site") as server:
        CDCSArchive(server.base_url, "admin", USERS["admin"].password).install_templates()
        starts = start_times(options.rounds, Path(name))
        print(f"To start takes {starts['PublishRelease']:.2f} s, and the bare script {starts['bare']:.2f} s.\n")
        print("| case | bare s | PublishRelease s | ratio | ratio without start | files/s | peak MB |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for case in CASES:
            found = run(case, options.rounds, server, Path(name), starts)
            print(
                f"| {case.name} | {found.bare.seconds:.2f} | {found.ours.seconds:.2f} | {found.ratio:.2f} "
                f"| {found.ratio_started:.2f} | {case.files / found.ours.seconds:.1f} | {found.ours.memory:.0f} |",
                flush=True,
            )
            results.append(found)
    if options.json:
        options.json.write_text(json.dumps([_nested(result) for result in results], indent=1) + "\n", encoding="utf-8")


def _nested(result: Result) -> dict[str, object]:
    return {**result._asdict(), "ours": result.ours._asdict(), "bare": result.bare._asdict()}


if __name__ == "__main__":
    main()
