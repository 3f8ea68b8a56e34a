"""Publish, fetch and mirror versioned releases of research data, as Luigi tasks on verified files.

``luigi --module pipeline PublishRelease`` and its sisters are the command line;
:mod:`pipeline.archive_interface` is the interface for scripts.
"""

from .archives import ArchiveInterface, CDCSArchive, FileSystemArchive, get_interface
from .errors import PipelineError, ReleaseRecordNotFoundError
from .tasks import (
    AuditArchive,
    AuditTitle,
    CreateArchive,
    DownloadBlob,
    FetchRelease,
    MirrorArchive,
    MirrorBlob,
    MirrorRelease,
    MirrorReleaseRecord,
    PublishRelease,
    RepairBlob,
    UploadBlob,
    UploadReleaseRecord,
)

__version__ = "0.1.0"

__all__ = [
    "ArchiveInterface",
    "AuditArchive",
    "AuditTitle",
    "CDCSArchive",
    "CreateArchive",
    "DownloadBlob",
    "FetchRelease",
    "FileSystemArchive",
    "MirrorArchive",
    "MirrorBlob",
    "MirrorRelease",
    "MirrorReleaseRecord",
    "PipelineError",
    "PublishRelease",
    "ReleaseRecordNotFoundError",
    "RepairBlob",
    "UploadBlob",
    "UploadReleaseRecord",
    "get_interface",
]
