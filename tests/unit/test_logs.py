"""A log line is one JSON object, also where an error is logged with its traceback."""

import json
import logging
import sys

from pipeline.logs import JSONLines


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
