"""One Luigi task for each blob. Luigi hands them out in batches; a batch names its members in the manifest."""

import functools
import gc
from collections.abc import Iterable
from functools import cached_property
from typing import Any, ClassVar

import luigi
import luigi.interface

from ..errors import PipelineError, printable
from ..manifest import format_ranges, parse_ranges
from ..release import Blob
from .base import HIDDEN, ManifestTask
from .reports import touch_reports
from .runs import Run, known_run, run_of, runs_of

# A blob of this many bytes moves before the small ones, and alone where other workers may take the others.
BIG_BYTES = 64 * 2**20
_BATCHES_PER_RELEASE = 8
_SMALLEST_BATCH = 200
# About so many bytes at most are one batch: several workers can share a release of few blobs that are not small.
_BATCH_BYTES = 8 * BIG_BYTES
# More than any release has blobs.
PRIORITIES_PER_RANK = 2**32


def _join_numbers(numbers: Iterable[str]) -> str:
    return format_ranges(map(int, numbers))


def _join_paths(paths: Iterable[str]) -> str:
    ordered = sorted(paths)
    return f"{len(ordered)} blobs, {ordered[0]} ... {ordered[-1]}"


class BlobTarget(luigi.Target):
    """A blob where it goes to; it exists when it is there with the bytes of its digest.

    Parameters
    ----------
    run : Run
        Knows what is there.
    blob : Blob
        The blob.
    """

    def __init__(self, run: Run, blob: Blob) -> None:
        self.run = run
        self.blob = blob

    def exists(self) -> bool:
        """Tell whether the verified blob is in place."""
        return self.run.is_there(self.blob)

    def __str__(self) -> str:
        return f"{printable(self.blob.paths[0])} ({self.blob.digest})"


_NAMES = {"release", "path", "blobs", "manifest"}


class BlobTask(ManifestTask):
    """The moving of one blob, or of a batch of them."""

    kind: ClassVar[type[Run]]
    is_made_once = True  # there are very many of them, and their run holds them

    path = luigi.Parameter(batch_method=_join_paths, description="The blob's first file, for people.")
    blobs = luigi.Parameter(batch_method=_join_numbers, visibility=HIDDEN, description="Positions in the manifest.")
    manifest = luigi.Parameter(visibility=HIDDEN, description="Digest of the manifest.")

    _params: ClassVar[list[tuple[str, luigi.Parameter]] | None] = None

    @classmethod
    def get_params(cls) -> list[tuple[str, luigi.Parameter]]:
        """Return the parameters; remembered, because Luigi asks some ten times for each of very many tasks."""
        if cls.__dict__.get("_params") is None:
            cls._params = super().get_params()
        return cls._params  # type: ignore[return-value]

    @classmethod
    def get_param_values(
        cls, params: list[tuple[str, luigi.Parameter]], args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Return the values of the parameters, at once where all are named."""
        if args or kwargs.keys() != _NAMES:
            return super().get_param_values(params, args, kwargs)
        return [(name, kwargs[name]) for name, _ in params]

    @property
    def moving(self) -> Run:
        """The run that this task belongs to."""
        return run_of(self.kind, self.manifest)

    @cached_property
    def single(self) -> Blob | None:
        """The blob; None for a batch, and where the manifest is not known here."""
        run = known_run(self.kind, self.manifest) if self.blobs.isdecimal() else None
        return run.blobs[int(self.blobs)] if run and int(self.blobs) < len(run.blobs) else None

    def members(self) -> list[Blob]:
        """Return the blobs that this task names.

        Raises
        ------
        ManifestError
            When the manifest is not known here, or has no such blobs.
        """
        if self.single is not None:
            return [self.single]
        known = self.moving.blobs
        return [known[number] for number in parse_ranges(self.blobs, len(known))]

    @property
    def batchable(self) -> bool:
        """Whether it can be part of a batch; big blobs run alone where several workers may share the work."""
        return self.single is not None and (_works_alone() or not self.is_big)

    @property
    def is_big(self) -> bool:
        """Whether this is one blob with very many bytes."""
        return self.single is not None and self.single.size >= BIG_BYTES

    @property
    def max_batch_size(self) -> int:  # type: ignore[override]
        """The same for all releases that move in this process: Luigi asks once."""
        return max(map(_batch_size, runs_of(self.kind)), default=_SMALLEST_BATCH)

    @property
    def priority(self) -> int:  # type: ignore[override]
        """Big blobs come first, then the others in the order of the manifest, so that a batch is one range of it."""
        run = known_run(self.kind, self.manifest)
        count = len(run.blobs) if run else 0
        first = run.rank * PRIORITIES_PER_RANK if run else 0
        return first + (count + 1 if self.single is None or self.is_big else count - int(self.blobs))

    @property
    def resources(self) -> dict[str, int]:  # type: ignore[override]  # Luigi has a plain attribute
        """What the scheduler counts against the limit of a host: the transfers that run at the same time."""
        run = known_run(self.kind, self.manifest)
        taken = run.resources if run else {}
        return taken if self.batchable else dict.fromkeys(taken, 1)

    def output(self) -> list[BlobTarget]:
        """Return the blobs as targets that exist only with verified bytes."""
        run = self.moving
        return [BlobTarget(run, blob) for blob in self.members()]

    def complete(self) -> bool:
        """Tell whether all members are in place; where that cannot be seen they are not, and running says why."""
        try:
            if self.single is not None:
                return self.moving.is_there(self.single)
            return all(map(self.moving.is_there, self.members()))
        except (PipelineError, OSError):
            return False

    def perform(self) -> None:
        """Move the members that are not in place."""
        # The long ones begin first, so that they do not end last.
        members = sorted(self.members(), key=lambda blob: blob.size < BIG_BYTES)
        self.moving.move(members, self._announce)

    def _announce(self, message: str, percentage: int) -> None:
        touch_reports()
        if not _works_alone():  # nobody can look at a scheduler that is in this process
            self.moving.teller.tell(self, message, percentage)


@functools.cache
def _works_alone() -> bool:
    """Tell whether no other worker might take blobs, of this process or by a central scheduler."""
    core = luigi.interface.core()
    return bool(core.local_scheduler) and core.workers == 1


def _batch_size(run: Run) -> int:
    """Return how many blobs are a batch: more in a large release, so that the scheduler is not asked more often.

    Where other workers may take batches, these are not all of a large release, and do not have very many bytes.
    """
    if _works_alone():
        return max(1, len(run.blobs))
    grown = max(_SMALLEST_BATCH, -(-len(run.blobs) // _BATCHES_PER_RELEASE))
    sizes = [blob.size for blob in run.blobs if blob.size < BIG_BYTES]
    return min(grown, len(sizes) * _BATCH_BYTES // sum(sizes)) if sizes else grown


def tasks_for(task: type[BlobTask], run: Run) -> list[Any]:
    """Return the tasks for all blobs of a run, in the order of its manifest."""
    digest, title = run.manifest.digest, run.record.title
    tasks = [
        task(release=title, manifest=digest, blobs=str(number), path=printable(blob.paths[0]))
        for number, blob in enumerate(run.blobs)
    ]
    # All of this stays to the end of the run; Python need not look through it for garbage again and again.
    gc.freeze()
    return tasks
