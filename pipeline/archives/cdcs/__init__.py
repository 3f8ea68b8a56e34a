"""An archive on a CDCS site, and the REST client that it uses."""

from .archive import CDCSArchive
from .client import CDCSClient

__all__ = ["CDCSArchive", "CDCSClient"]
