"""Fixtures of all tests."""

from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import Workshop


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """A folder where a user works."""
    return Workshop(tmp_path)


# The same examples on every machine: what fails for one fails for all. A longer search is a matter of the profile.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile("repeatable")
