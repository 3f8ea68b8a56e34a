"""What Luigi logs of our tasks, and what their parameters take: sentences where there is one, tracebacks elsewhere."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import luigi
import pytest
from luigi.rpc import RPCError
from luigi.worker import TaskException

from pipeline import FetchRelease, PublishRelease
from pipeline.errors import ProjectError
from pipeline.report import ReleaseReport
from pipeline.tasks.base import TextsParameter, _WithoutTraceback
from pipeline.tasks.reports import note_start, open_report, touch_reports


def logged(error: BaseException | None, keeper: _WithoutTraceback | None = None) -> logging.LogRecord | None:
    """Return what is left of a line that Luigi logs with an error, or None."""
    caught: Any = (None, None, None)
    try:
        if error is not None:
            raise error
    except BaseException:
        caught = sys.exc_info()
    record = logging.LogRecord("luigi-interface", logging.ERROR, "", 0, "%s failed", ("A",), caught)
    return record if (keeper or _WithoutTraceback()).filter(record) else None


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ProjectError("There is no folder x; correct it."), "There is no folder x; correct it."),
        (RPCError("no answer"), "luigid"),
        (
            TaskException("Task finished running, but complete() is still returning false."),
            "is gone, or cannot be seen",
        ),
        (RuntimeError("Unfulfilled dependency at run time: A"), "is gone, or cannot be seen"),
    ],
)
def test_an_error_that_can_be_explained_is_logged_as_a_sentence(error: BaseException, sentence: str) -> None:
    record = logged(error)
    assert record is not None
    assert sentence in record.getMessage()
    assert record.exc_info is None


def test_an_error_that_nobody_foresaw_keeps_its_traceback() -> None:
    record = logged(ZeroDivisionError("division by zero"))
    assert record is not None
    assert record.getMessage() == "A failed"
    assert "ZeroDivisionError: division by zero" in logging.Formatter().format(record)


def test_a_line_of_luigi_without_an_error_has_no_traceback() -> None:
    record = logged(None)
    assert record is not None
    assert logging.Formatter().format(record) == "A failed"


def test_that_luigid_is_away_is_told_once_each_time() -> None:
    keeper, error = _WithoutTraceback(), RPCError("no answer")
    assert [logged(again, keeper) is not None for again in (error, error, RPCError("again"))] == [True, False, True]


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("", ()),
        ("*.tmp, build/", ("*.tmp", "build/")),
        ('["a,b", "c"]', ("a,b", "c")),
        ("[1, 2]", ("[1", "2]")),
        ("[ab]*.csv", ("[ab]*.csv",)),
        ('{"a": 1}', ('{"a": 1}',)),
    ],
)
def test_texts_are_a_list_of_json_or_separated_by_commas(text: str, texts: tuple[str, ...]) -> None:
    assert TextsParameter().parse(text) == texts
    assert TextsParameter().parse(TextsParameter().serialize(texts)) == texts


def test_a_task_with_a_parameter_of_an_odd_type_can_be_made() -> None:
    with pytest.warns(UserWarning, match="is not of type string"):
        task = PublishRelease(project_directory={"no": "text"})
    assert task.project_directory == {"no": "text"}


def test_a_task_is_the_same_as_long_as_somebody_holds_it() -> None:
    task = FetchRelease(title="sample")
    assert FetchRelease(title="sample") is task


def test_a_process_that_was_ended_from_outside_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    FetchRelease(title="sample").trigger_event(luigi.Event.PROCESS_FAILURE, FetchRelease(title="sample"), "died")
    assert caplog.messages == [
        "FetchRelease: its process was ended from outside, perhaps because memory ran out; run the same command again."
    ]


def states(folder: Path) -> list[str]:
    """Return the states that the reports of a folder tell, the oldest first."""
    files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    return [json.loads(file.read_bytes())["state"] for file in files]


@pytest.fixture
def asked(tmp_path: Path) -> FetchRelease:
    """A task that is to write a report, and has not planned yet."""
    return FetchRelease(title="sample", report_directory=str(tmp_path / "reports"))


def test_a_report_stays_as_it_is_while_its_task_plans_anew(asked: FetchRelease, tmp_path: Path) -> None:
    report = open_report(asked)
    assert report is not None
    report.releases.append(ReleaseReport("sample", "0.1.0", "running"))
    report.refresh()
    report.leave_out(FetchRelease(title="another"))
    assert [release.state for release in report.releases] == ["running"]
    report.close("done")
    assert states(tmp_path / "reports") == ["done"]


def test_a_program_that_goes_on_after_a_failure_ends_the_report_of_what_failed(
    asked: FetchRelease, tmp_path: Path
) -> None:
    first = open_report(asked)
    assert first is not None
    touch_reports()
    assert states(tmp_path / "reports") == ["running"]
    note_start()
    second = open_report(FetchRelease(title="another", report_directory=str(tmp_path / "reports")))
    assert second is not None
    assert states(tmp_path / "reports") == ["interrupted"]
    second.close()
