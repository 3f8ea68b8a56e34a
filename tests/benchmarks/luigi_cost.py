"""What Luigi costs: the start, and each blob that is in the archive already."""

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.data import Case, make_project
from tests.benchmarks.measuring import Cost, measure, median
from tests.benchmarks.ways import Pipeline, Place
from tests.support import Workshop

Say = Callable[[str], None]


class Start(NamedTuple):
    """What it takes to start: an import of Luigi, one of this package too, and PublishRelease with nothing to do."""

    luigi: Cost
    pipeline: Cost
    nothing: Cost

    @property
    def added(self) -> float:
        """Seconds that PublishRelease takes over the import of Luigi."""
        return self.nothing.seconds - self.luigi.seconds


class BlobCost(NamedTuple):
    """What a release takes whose blobs are all in the archive: without its record, and with it, when nothing is done.

    ``above_start`` and ``above_nothing`` are milliseconds for each blob: over the start alone, and over the rerun that
    scans the project too but makes no task for its blobs.
    """

    blobs: int
    publish: Cost
    nothing: Cost
    above_start: float
    above_nothing: float


def start_cost(rounds: int, folder: Path, say: Say) -> Start:
    """Measure the start, with a release of one file."""
    published = Published(Case("start", 1, 1), folder)
    commands = {
        "luigi": [sys.executable, "-c", "import luigi"],
        "pipeline": [sys.executable, "-c", "import luigi, pipeline"],
        "nothing": published.command,
    }
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for number in range(rounds):
        for name, command in commands.items():
            costs[name].append(published.measure(command))
        say(f"start, round {number + 1} of {rounds}: {costs['nothing'][-1].seconds:.2f} s")
    return Start(**{name: median(found) for name, found in costs.items()})


def blob_cost(case: Case, rounds: int, folder: Path, start: Start, say: Say) -> BlobCost:
    """Measure the publishing of blobs that are all in the archive, each time without the record."""
    published = Published(case, folder)
    publish: list[Cost] = []
    nothing: list[Cost] = []
    for number in range(rounds):
        nothing.append(published.measure(published.command))
        published.record.unlink()
        publish.append(published.measure(published.command))
        say(f"{case}, all in the archive, round {number + 1} of {rounds}: {publish[-1].seconds:.2f} s")
    with_record, without = median(nothing), median(publish)
    above_start = (without.seconds - start.nothing.seconds) / case.files * 1000
    above_nothing = (without.seconds - with_record.seconds) / case.files * 1000
    return BlobCost(case.files, without, with_record, above_start, above_nothing)


class Published:
    """A published release."""

    def __init__(self, case: Case, folder: Path) -> None:
        self._place = Place(Path(tempfile.mkdtemp(prefix="luigi-", dir=folder)))
        make_project(self._place.project, case)
        self.workshop = Workshop(self._place.folder)
        self.command = self.workshop.command(
            "PublishRelease",
            project_directory=self._place.project,
            title="sample",
            release_version="1.0.0",
            create_archive=True,
        )
        self.record = self.workshop.record_file("1.0.0")
        self.measure(self.command)

    def measure(self, command: list[str], variables: Mapping[str, str] | None = None) -> Cost:
        """Run a command in the folder of the release, with more environment variables."""
        os.sync()
        return measure(command, self._place.folder, {**Pipeline().environment(self._place), **(variables or {})})
