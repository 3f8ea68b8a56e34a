"""A handful of faults in the modules that tell what is the same and what is newer: the unit tests notice each.

All of them are tried by ``python -m tests.attacks.mutants``.
"""

from pathlib import Path

import pytest

from tests.attacks.equivalent import EQUIVALENT
from tests.attacks.mutants import NOTICED_BY, Bench, Mutant, mutants_of, sample
from tests.support import ROOT

SEED = 6


@pytest.mark.parametrize("module", ["versions.py", "checksums.py", "manifest.py"])
def test_a_fault_is_noticed(module: str, tmp_path: Path) -> None:
    mutants = [mutant for mutant in sample([module], SEED) if not mutant.is_equivalent][:3]
    bench = Bench(tmp_path)
    assert {str(mutant): bench.notices(mutant) for mutant in mutants} == {str(mutant): "killed" for mutant in mutants}


def test_a_fault_that_nobody_notices_survives(tmp_path: Path) -> None:
    source = (ROOT / "pipeline" / "versions.py").read_bytes()
    assert Bench(tmp_path).notices(Mutant("versions.py", 1, "", "", source + b"\n")) == "survived"


def test_what_is_said_to_be_equivalent_is_a_fault_that_the_code_can_have() -> None:
    possible = {(mutant.module, mutant.before, mutant.after) for module in NOTICED_BY for mutant in mutants_of(module)}
    assert set(EQUIVALENT) <= possible
