"""The Luigi tasks. They decide what is done and in which order, never how bytes move."""

from .create import CreateArchive
from .fetch import DownloadBlob, FetchRelease
from .publish import PublishRelease, UploadBlob, UploadReleaseRecord

__all__ = ["CreateArchive", "DownloadBlob", "FetchRelease", "PublishRelease", "UploadBlob", "UploadReleaseRecord"]
