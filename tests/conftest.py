"""Fixtures of all tests."""

from pathlib import Path

import pytest

from tests.support import Workshop


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """A folder where a user works."""
    return Workshop(tmp_path)
