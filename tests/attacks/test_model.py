"""Whatever is done with archives, they hold what the model says and the runs say what it expects."""

import os
from pathlib import Path

import pytest

from tests.attacks.model import Machine, attack, site_machine

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that can be forked")


def test_random_sequences_leave_folders_as_the_model_says() -> None:
    attack(Machine, 5)


def test_random_sequences_leave_a_site_and_its_mirror_as_the_model_says(tmp_path: Path) -> None:
    with site_machine(tmp_path / "site") as machine:
        attack(machine, 2)
