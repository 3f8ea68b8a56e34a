"""Measure cases: every way does every operation, in turns, in folders of its own."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.data import Case, change_project, differences, empty, link_project, make_project, warm
from tests.benchmarks.measuring import CommandFailedError, Cost, measure, median, together
from tests.benchmarks.ways import CHANGED, FETCH, FETCH_AGAIN, OPERATIONS, WAYS, Place, Way
from tests.environments import NotInstalledError

Say = Callable[[str], None]


@dataclass
class Findings:
    """What a case took.

    Attributes
    ----------
    case : str
        Its description.
    costs : dict
        Operation, then name of the way, to the cost in each round.
    failed : list of tuple
        Who could not do it, and why.
    """

    case: str
    costs: dict[str, dict[str, list[Cost]]] = field(default_factory=lambda: {name: {} for name in OPERATIONS})
    failed: list[tuple[str, str]] = field(default_factory=list)

    def add(self, operation: str, way: str, cost: Cost) -> None:
        """Note a cost."""
        self.costs[operation].setdefault(way, []).append(cost)

    def drop(self, way: str, reason: str) -> None:
        """Forget a way: medians of fewer rounds could not be compared."""
        for costs in self.costs.values():
            costs.pop(way, None)
        self.failed.append((way, reason))

    def medians(self, operation: str) -> dict[str, Cost]:
        """Return name of the way to medians."""
        return {way: median(costs) for way, costs in self.costs[operation].items()}


def installed_ways(names: Iterable[str], say: Say) -> tuple[list[Way], list[str]]:
    """Return the ways that can be had here, and a sentence for each that cannot."""
    ways: list[Way] = []
    missing: list[str] = []
    for name in names:
        way = WAYS[name]()
        say(f"{name}: looking for it, installing what is missing")
        try:
            way.install()
        except NotInstalledError as error:
            missing.append(f"{name} is not in the comparison: {error}")
        else:
            ways.append(way)
    return ways, missing


def version_of(way: Way, folder: Path) -> str:
    """Return what a tool says of its version."""
    command = way.version()
    if command is None:
        return ""
    place = Place(Path(tempfile.mkdtemp(dir=folder)))
    said = subprocess.run(command, env=way.environment(place), cwd=place.folder, capture_output=True, text=True)
    return said.stdout.partition("\n")[0].strip()


def run_case(case: Case, ways: list[Way], rounds: int, folder: Path, say: Say) -> Findings:
    """Measure a case.

    Parameters
    ----------
    case : Case
        Its files are made once.
    ways : list of Way
        Who does it; the one that begins is another one in every round.
    rounds : int
        How often.
    folder : Path
        Where; what was made there is left without its bytes, see :func:`empty`.
    say : callable
        Is told how far it is.
    """
    findings, project = Findings(str(case)), folder / f"files-{case.name}"
    say(f"{case}: making the files")
    make_project(project, case)
    ways = list(ways)
    for number in range(rounds):
        first = number % max(1, len(ways))
        for way in ways[first:] + ways[:first]:
            place = Place(Path(tempfile.mkdtemp(prefix=f"{way.name}-", dir=folder)))
            try:
                for operation, cost in _one_turn(way, place, project):
                    findings.add(operation, way.name, cost)
                    say(f"{case}, round {number + 1} of {rounds}: {way.name}, {operation}: {cost.seconds:.2f} s")
            except CommandFailedError as error:
                findings.drop(way.name, str(error))
                say(f"{case}: {way.name} failed and is left out: {error}")
                ways.remove(way)
            finally:
                empty(place.folder)
    return findings


def _one_turn(way: Way, place: Place, project: Path) -> Iterable[tuple[str, Cost]]:
    link_project(project, place.project)
    for command in way.prepare(place):
        measure(command, place.folder, way.environment(place))
    warm(place.project)
    for operation in OPERATIONS:
        if operation == CHANGED:
            change_project(place.project)
        commands = way.commands(operation, place)
        if not commands:
            continue
        # Nobody pays for what others left to be written.
        os.sync()
        where, environment = way.folder(operation, place), way.environment(place)
        yield operation, together([measure(command, where, environment) for command in commands])
        if operation in (FETCH, FETCH_AGAIN) and (wrong := differences(place.project, way.fetched(place))):
            raise CommandFailedError(f"{operation}: {len(wrong)} files are not those of the project, first {wrong[0]}")
