"""One Luigi task for each blob. Luigi hands them out in batches; a batch names its members in the manifest."""

import gc
from collections.abc import Iterable
from functools import cached_property
from typing import Any, ClassVar

import luigi

from ..errors import ManifestError
from ..manifest import format_ranges, parse_ranges
from ..release import Blob
from .base import ExplainedTask
from .reports import touch_reports
from .runs import Run, known_run, run_of

# A blob of this many bytes moves alone, and before the small ones.
BIG_BYTES = 64 * 2**20
_BATCHES_PER_RELEASE = 8
_SMALLEST_BATCH = 200
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
        return f"{self.blob.paths[0]} ({self.blob.digest})"


_NAMES = {"release", "manifest", "blobs", "path"}


class BlobTask(ExplainedTask):
    """The moving of one blob, or of a batch of them."""

    kind: ClassVar[type[Run]]

    release = luigi.Parameter(description="Title and version of the release.")
    manifest = luigi.Parameter(description="Digest of the manifest.")
    blobs = luigi.Parameter(batch_method=_join_numbers, description="Positions in the manifest.")
    path = luigi.Parameter(batch_method=_join_paths, description="The blob's first file, for people.")

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

    def to_str_params(self, only_significant: bool = False, only_public: bool = False) -> dict[str, str]:
        """Return the parameters as texts, which they are; no copies, because there are very many."""
        return self.param_kwargs

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
        """Big blobs run alone."""
        return self.single is not None and self.single.size < BIG_BYTES

    @property
    def max_batch_size(self) -> int:  # type: ignore[override]
        """Batches grow with the release, so that the number of calls to the scheduler does not."""
        run = known_run(self.kind, self.manifest)
        return max(_SMALLEST_BATCH, -(-len(run.blobs if run else ()) // _BATCHES_PER_RELEASE))

    @property
    def priority(self) -> int:  # type: ignore[override]
        """Big blobs come first, then the others in the order of the manifest, so that a batch is one range of it."""
        run = known_run(self.kind, self.manifest)
        count = len(run.blobs) if run else 0
        first = run.rank * PRIORITIES_PER_RANK if run else 0
        return first + (count - int(self.blobs) if self.batchable else count + 1)

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
        """Tell whether all members are in place; where the manifest is not known they are not, and running says so."""
        if self.single is not None:
            return self.moving.is_there(self.single)
        try:
            return all(map(self.moving.is_there, self.members()))
        except ManifestError:
            return False

    def perform(self) -> None:
        """Move the members that are not in place."""
        self.moving.move(self.members(), self._announce)

    def _announce(self, message: str, percentage: int) -> None:
        touch_reports()
        for report, value in ((self.set_status_message, message), (self.set_progress_percentage, percentage)):
            if report is not None:
                report(value)


def tasks_for(task: type[BlobTask], run: Run) -> list[Any]:
    """Return the tasks for all blobs of a run, in the order of its manifest."""
    digest, title = run.manifest.digest, run.record.title
    tasks = [
        task(release=title, manifest=digest, blobs=str(number), path=blob.paths[0])
        for number, blob in enumerate(run.blobs)
    ]
    # All of this stays to the end; Python need not look through it for garbage again and again.
    gc.freeze()
    return tasks
