"""A real CDCS server for the tests and for trying things out: ``python -m tests.cdcs_server`` starts a playground."""

from .server import USERS, CDCSServer, User, install

__all__ = ["USERS", "CDCSServer", "User", "install"]
