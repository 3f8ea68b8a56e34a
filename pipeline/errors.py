"""Every error that a user can meet.

Each message is one sentence that names the file, field or option and says what to do. Luigi tasks show it without a
traceback; scripts catch :class:`PipelineError` or one of its kinds.
"""

import errno
import os
from collections.abc import Sequence

from .hiding import without_secrets


class PipelineError(Exception):
    """Base of all errors that have an explanation for the user.

    Attributes
    ----------
    is_hopeless : bool
        Whether everything else that is to be done in the same place would fail for the same reason.
    """

    is_hopeless: bool = False


class InvalidNameError(PipelineError, ValueError):
    """A title, workspace or path that cannot be used as a name in an archive or in a release."""


class InvalidVersionError(PipelineError, ValueError):
    """A version or version expression that is not semantic versioning."""


class ReleaseFileError(PipelineError):
    """A release file that is missing, unreadable or has a wrong field."""


class ProjectError(PipelineError):
    """A project directory that cannot be published as it is."""


class RecordError(PipelineError):
    """A release record that is damaged, hostile or cannot be written."""


class ReleaseRecordNotFoundError(PipelineError):
    """Raised when a record is asked for but does not exist."""


class RequirementsError(PipelineError):
    """Requirements that cannot be understood, contradict each other, or go round in a circle."""


class LockFileError(PipelineError):
    """A lock file that is damaged, or does not fit what is asked for."""


class ReleaseExistsError(PipelineError):
    """The version is in the archive already, with other content."""


class ArchiveError(PipelineError):
    """An archive that does not exist, is not one, or cannot do what is asked."""


class BlobNotThereError(ArchiveError):
    """A blob that a record names, and that its archive does not have.

    Parameters
    ----------
    title, path : str
        The title of the record, and the path of the file.
    host : str or PathLike
        Where the archive is.
    """

    def __init__(self, title: str, path: str, host: str | os.PathLike[str]) -> None:
        super().__init__(
            f"{title} was not published: the blob of '{printable(path)}' is not in {printable(host)} yet; upload the "
            "blobs first."
        )


class SettingsError(PipelineError):
    """A setting in ``luigi.cfg`` that has no usable value."""


class CredentialsError(PipelineError):
    """A user name, password or token that is missing or was refused."""

    is_hopeless = True


class StorageError(PipelineError):
    """The file system refused to read or write something."""


class BlobError(PipelineError):
    """One blob that could not be moved."""


class SourceChangedError(BlobError):
    """A source file that changed or vanished while it was being published."""


class BlobDamagedError(BlobError):
    """A blob whose bytes do not have the size or the digest of the record."""


class AuditError(PipelineError):
    """Something in an archive is damaged, and was not repaired.

    Parameters
    ----------
    sentence : str
        How much.
    findings : sequence
        What it is.
    """

    def __init__(self, sentence: str, findings: Sequence[object] = ()) -> None:
        super().__init__(sentence)
        self.findings = list(findings)


class ManifestError(PipelineError):
    """A frozen list of blobs that is not known here, or a range outside it."""


class BlobsFailedError(PipelineError):
    """Some blobs of a batch could not be moved; the others were.

    Parameters
    ----------
    failures : sequence of (str, Exception)
        The path of each blob that was not moved, and why.
    """

    def __init__(self, failures: Sequence[tuple[str, Exception]]) -> None:
        self.failures = list(failures)
        by_reason: dict[str, list[str]] = {}
        for path, error in self.failures:
            by_reason.setdefault(explain(error), []).append(path)
        super().__init__("\n".join(f"{_some(paths)}: {reason}" for reason, paths in by_reason.items()))


# Longer than any path; what is longer is meant to fill a screen or a disk.
_LONGEST_END = 5_000


def _some(paths: list[str], shown: int = 3) -> str:
    names = ", ".join(printable(path) for path in paths[:shown])
    return names if len(paths) <= shown else f"{names} and {len(paths) - shown} more"


def printable(text: object) -> str:
    r"""Return text that is safe to show on one line of a terminal or a log, without secrets; of a long one, its ends.

    Examples
    --------
    >>> print(printable("two\nlines \x1b[31m"))
    two\nlines \x1b[31m
    >>> print(printable("Größe µ.csv"))
    Größe µ.csv
    """
    shown = without_secrets(str(text))
    if len(shown) > 2 * _LONGEST_END:
        shown = f"{shown[:_LONGEST_END]} ... {shown[-_LONGEST_END:]}"
    return shown if shown.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)


_ADVICE = {
    errno.ENOSPC: "the disk is full; make room and run the same command again",
    errno.EDQUOT: "the disk quota is used up; make room and run the same command again",
    errno.EROFS: "the file system is read-only; make it writable and run the same command again",
    errno.EACCES: "permission is denied; ask for the right to it and run the same command again",
    errno.EPERM: "the operation is not permitted; ask for the right to it and run the same command again",
    errno.ENOENT: "there is no such file or folder",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.EIO: "the disk or the network drive reports an input/output error; check it and run the same command again",
    errno.EISDIR: "a folder stands where a file belongs; move it away and run the same command again",
    errno.ENOTDIR: "a file stands where a folder belongs; move it away and run the same command again",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n) and run the same command again",
    errno.ELOOP: "it is a symbolic link, and nothing is written through it; remove it and run the same command again",
    errno.ESTALE: "the network drive lost the file; run the same command again",
}


def explain(error: BaseException, path: str | os.PathLike[str] | None = None) -> str:
    """Return one sentence for any error, without a traceback.

    Parameters
    ----------
    error : BaseException
        What happened.
    path : str or PathLike, optional
        What it happened to, where the error itself does not know.

    Examples
    --------
    >>> explain(OSError(errno.ENOSPC, "No space left on device", "/archive/blobs/ab"))
    '/archive/blobs: the disk is full; make room and run the same command again'
    """
    if isinstance(error, PipelineError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        # Of a renaming, what matters is the name that was to be given.
        where = path or error.filename2 or error.filename
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) and isinstance(where, (str, os.PathLike)):
            where = os.path.dirname(os.fspath(where)) or where
        advice = _ADVICE.get(error.errno, (error.strerror or "the operation failed").lower())
        return f"{printable(os.fspath(where))}: {advice}" if isinstance(where, (str, os.PathLike)) else advice
    return f"{type(error).__name__}: {printable(error)}" if str(error) else type(error).__name__
