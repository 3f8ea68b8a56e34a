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

# As many tasks that are complete, and one that requires them. Luigi's walk through their parameters is spared, as ours.
_SKETCH = """
import gc
import sys

import luigi


class Blob(luigi.Task):
    number = luigi.Parameter(batch_method=max)
    params = None

    @classmethod
    def get_params(cls):
        cls.params = cls.params or super().get_params()
        return cls.params

    def complete(self):
        return True


class Record(luigi.Task):
    count = luigi.IntParameter()
    is_published = False

    def requires(self):
        gc.freeze()
        return [Blob(number=str(number)) for number in range(self.count)]

    def run(self):
        self.is_published = True

    def complete(self):
        return self.is_published


luigi.build([Record(count=int(sys.argv[1]))], local_scheduler=True, log_level="WARNING", no_lock=True)
"""


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
    scans the project too but makes no task for its blobs. ``sketch`` is what as many tasks take that do nothing at all,
    and ``of_sketch`` milliseconds for each of them over the import of Luigi.
    """

    blobs: int
    publish: Cost
    nothing: Cost
    above_start: float
    above_nothing: float
    sketch: Cost
    of_sketch: float


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
    sketches: list[Cost] = []
    for number in range(rounds):
        nothing.append(published.measure(published.command))
        published.record.unlink()
        publish.append(published.measure(published.command))
        sketches.append(published.measure([sys.executable, "-c", _SKETCH, str(case.files)]))
        say(f"{case}, all in the archive, round {number + 1} of {rounds}: {publish[-1].seconds:.2f} s")
    with_record, without, sketch = median(nothing), median(publish), median(sketches)

    def of_each(more: Cost, less: Cost) -> float:
        return (more.seconds - less.seconds) / case.files * 1000

    above = of_each(without, start.nothing), of_each(without, with_record)
    return BlobCost(case.files, without, with_record, *above, sketch, of_each(sketch, start.luigi))


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
