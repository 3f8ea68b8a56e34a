"""The archive interface under its documented name: what scripts need to work with archives, without Luigi."""

from .archives import ArchiveInterface, CDCSArchive, FileSystemArchive, get_interface, is_url
from .checksums import chunked_sha
from .credentials import get_credentials
from .errors import ReleaseRecordNotFoundError

__all__ = [
    "ArchiveInterface",
    "CDCSArchive",
    "FileSystemArchive",
    "ReleaseRecordNotFoundError",
    "chunked_sha",
    "get_credentials",
    "get_interface",
    "is_url",
]
