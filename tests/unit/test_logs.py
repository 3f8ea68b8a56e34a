"""What is logged and shown: a log line is one JSON object, and a bar tells names where they are asked for."""

import json
import logging
import sys

import pytest

from pipeline.logs import JSONLines
from pipeline.progress import Progress


def line_of(error: BaseException | None) -> str:
    try:
        if error is not None:
            raise error
    except BaseException:
        caught = sys.exc_info()
    else:
        caught = (None, None, None)
    return JSONLines().format(logging.LogRecord("pipeline", logging.ERROR, "", 0, "It ended.", (), caught))


def test_an_error_is_in_the_line_with_its_traceback() -> None:
    line = line_of(ValueError("two\nlines"))
    assert "\n" not in line
    assert json.loads(line)["exception"].splitlines()[0] == "Traceback (most recent call last):"
    assert json.loads(line)["exception"].endswith("ValueError: two\nlines")


def test_where_there_is_no_error_the_line_tells_of_none() -> None:
    assert "exception" not in json.loads(line_of(None))


@pytest.mark.parametrize(("names_shown", "lines"), [(True, 2), (False, 1)])
def test_bars_have_a_line_for_names_where_they_are_to_be_shown(names_shown: bool, lines: int) -> None:
    progress = Progress("sample", 1, 10, names_shown=names_shown)
    progress._show_bars()
    assert len(progress._bars) == lines
    progress.close()
    assert not progress._bars
