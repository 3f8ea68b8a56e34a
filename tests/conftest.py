"""Fixtures of all tests."""

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from hypothesis import Phase, settings
from keyring.backends.null import Keyring

import pipeline.hiding
from tests.support import Workshop


@pytest.fixture(autouse=True, scope="session")
def no_keyring() -> Iterator[None]:
    """Keep the keyring of whoever runs the tests out of them."""
    own = keyring.get_keyring()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
        keyring.set_keyring(Keyring())
        yield
    keyring.set_keyring(own)


@pytest.fixture(autouse=True, scope="session")
def interrupts_are_heard() -> Iterator[None]:
    """Let runs be interrupted also where the tests were started in the background, which ignores interrupts."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def no_secrets_of_others() -> Iterator[None]:
    """Let the passwords of one test be ordinary words in the next one."""
    known = pipeline.hiding._known
    yield
    pipeline.hiding._known = known


@pytest.fixture(autouse=True)
def nothing_frozen() -> Iterator[None]:
    """Let the garbage collector see all again: a run ends with its process, and hypothesis looks for what it keeps."""
    yield
    gc.unfreeze()


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """A folder where a user works."""
    return Workshop(tmp_path)


# The same examples on every machine: what fails for one fails for all. A longer search is a matter of the profile.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
# For whoever wants to know whether an example fails, and not which is the smallest.
settings.register_profile("hasty", derandomize=True, deadline=None, phases=[Phase.explicit, Phase.generate])
settings.load_profile("repeatable")
