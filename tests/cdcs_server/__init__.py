"""A real CDCS server for the tests and for trying things out: ``python -m tests.cdcs_server`` starts a playground."""

from .companions import Nginx, Postgres
from .server import USERS, CDCSServer, User, install

__all__ = ["USERS", "CDCSServer", "Nginx", "Postgres", "User", "install"]
