"""A handful of faults in the modules that tell what is the same and what is newer: the unit tests notice each.

All of them are tried by ``python -m tests.attacks.mutants``.
"""

import os
from pathlib import Path

import pytest

from tests.attacks.equivalent import EQUIVALENT
from tests.attacks.mutants import NOTICED_BY, Bench, Mutant, mutants_of, sample
from tests.support import ROOT

SEED = 6
PATIENCE = 300.0


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")


@pytest.mark.parametrize(("module", "faults"), [("versions.py", 2), ("checksums.py", 3), ("manifest.py", 4)])
def test_a_fault_is_noticed(module: str, faults: int, tmp_path: Path) -> None:
    mutants = [mutant for mutant in sample([module], SEED) if not mutant.is_equivalent][:faults]
    patience = dict.fromkeys(NOTICED_BY[module], PATIENCE)
    with Bench(tmp_path / "bench", patience) as bench:
        noticed = {str(mutant): bench.notices(mutant) for mutant in mutants}
    assert noticed == dict.fromkeys(map(str, mutants), "killed")


def test_a_fault_that_nobody_notices_survives(tmp_path: Path) -> None:
    source = (ROOT / "pipeline" / "manifest.py").read_bytes()
    with Bench(tmp_path / "bench") as bench:
        assert bench.notices(Mutant("manifest.py", 1, "", "", source + b"\n")) == "survived"


def test_what_is_said_to_be_equivalent_is_a_fault_that_the_code_can_have() -> None:
    mutants = [mutant for module in NOTICED_BY for mutant in mutants_of(module)]
    assert sum(mutant.is_equivalent for mutant in mutants) == len(EQUIVALENT)
