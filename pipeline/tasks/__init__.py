"""The Luigi tasks. They decide what is done and in which order, never how bytes move."""

from .audit import AuditArchive, AuditTitle, RepairBlob
from .create import CreateArchive
from .fetch import DownloadBlob, FetchRelease
from .mirror import MirrorArchive, MirrorBlob, MirrorRelease, MirrorReleaseRecord
from .publish import PublishRelease, UploadBlob, UploadReleaseRecord

__all__ = [
    "AuditArchive",
    "AuditTitle",
    "CreateArchive",
    "DownloadBlob",
    "FetchRelease",
    "MirrorArchive",
    "MirrorBlob",
    "MirrorRelease",
    "MirrorReleaseRecord",
    "PublishRelease",
    "RepairBlob",
    "UploadBlob",
    "UploadReleaseRecord",
]
