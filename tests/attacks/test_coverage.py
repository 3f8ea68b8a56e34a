"""What is said of branches that no test takes is said of branches that there are.

Which those are is told by ``python -m tests.attacks.coverage``.
"""

import pytest

from tests.attacks import coverage
from tests.attacks.coverage import EXPLAINED, Explained, explained_lines


def test_every_branch_that_is_explained_is_in_the_code() -> None:
    for file in {explained.file for explained in EXPLAINED}:
        assert explained_lines(file)


def test_a_branch_that_is_gone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Explained("versions.py", "matches", "if version is None:", "there is no such branch")
    monkeypatch.setattr(coverage, "EXPLAINED", (gone,))
    with pytest.raises(ValueError, match="has no 'if version is None:' in matches any more"):
        explained_lines("versions.py")
