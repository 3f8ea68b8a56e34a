"""Very many nights leave nothing behind: a short form of ``python -m tests.attacks.load``."""

from pathlib import Path

import pytest

from tests.attacks.load import Nights, Sample, compress_time, growth, live_long, too_much

NIGHTS = 9
ROUNDS = 12


@pytest.fixture(autouse=True)
def _compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.checksums._MOST_FOLDERS", 0)  # restored at the end
    monkeypatch.setattr("pipeline.manifest._DAY_SECONDS", 0)
    monkeypatch.setattr("pipeline.report._NIGHTS_SHOWN", 0)
    compress_time()


def test_nights_leave_nothing_behind_in_luigid_caches_archives_and_folders(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    try:
        for number in range(NIGHTS):
            nights.night(number)
    finally:
        nights.close()
    assert too_much(nights.samples) == {}


def test_a_program_that_never_ends_grows_by_nothing(tmp_path: Path) -> None:
    assert too_much(live_long(tmp_path, ROUNDS)) == {}


def test_growth_is_told_from_a_beginning() -> None:
    begins = [Sample(runs, {"files": min(runs, 3)}) for runs in range(9)]
    grows = [Sample(runs, {"files": runs // 2}) for runs in range(9)]
    assert growth(begins) == {"files": 0}
    assert growth(grows)["files"] == pytest.approx(0.5, abs=0.2)
    assert set(too_much(grows)) == {"files"}
