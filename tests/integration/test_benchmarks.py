"""The benchmark measures every operation; how fast anything is, no test asks."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.benchmarks.data import Case, change_project, differences, empty, link_project, make_project
from tests.benchmarks.measuring import CommandFailedError, measure
from tests.benchmarks.ways import OPERATIONS
from tests.support import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the system does not tell the peak of a process")


def test_every_operation_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--cases", "S", "--scale", "0.0005", "--rounds", "1"]
    command += ["--ways", "pipeline", "bare", "--folder", tmp_path / "work", "--json", tmp_path / "results.json"]
    command += ["--plot", tmp_path / "results.svg"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "S: 5 of 4 KiB" in ended.stdout
    for operation in OPERATIONS:
        assert ended.stdout.count(f"| {operation} |") == 3
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    (case,) = results["cases"]
    assert case["failed"] == {}
    assert list(case["operations"]) == list(OPERATIONS)
    for operation, ways in case["operations"].items():
        assert set(ways) >= {"pipeline", "bare"}, operation
        for found in ways.values():
            assert len(found["rounds"]) == 1
            assert all(value > 0 for value in found["median"].values())
    assert [cost["blobs"] for cost in results["luigi"]["blobs"]] == [5]
    assert [cost["blobs"] for cost in results["luigi"]["luigid"]] == [5]
    bars = ElementTree.parse(tmp_path / "results.svg").iter("{http://www.w3.org/2000/svg}rect")
    assert [bar.get("class") for bar in bars] == ["ours", "other"] * len(OPERATIONS)
    assert list((tmp_path / "work").iterdir()) == [], "it cleans up"


def test_a_way_that_fetches_something_else_is_noticed(tmp_path: Path) -> None:
    make_project(tmp_path / "project", Case("X", 250, 10))
    link_project(tmp_path / "project", tmp_path / "copy")
    assert differences(tmp_path / "project", tmp_path / "copy") == []
    change_project(tmp_path / "copy")
    changed = differences(tmp_path / "project", tmp_path / "copy")
    assert len(changed) == 2, "one in a hundred, and the linked files are as they were"
    empty(tmp_path / "copy")
    assert differences(tmp_path / "project", tmp_path / "copy") == changed, "the linked files are still as they were"
    (tmp_path / "copy" / changed[0]).unlink()
    assert differences(tmp_path / "project", tmp_path / "copy") == changed


def test_a_command_that_fails_says_what_it_wrote(tmp_path: Path) -> None:
    with pytest.raises(CommandFailedError, match=r"(?s)no such thing.*exit code 7"):
        measure([sys.executable, "-c", "print('no such thing'); raise SystemExit(7)"], tmp_path, os.environ)
