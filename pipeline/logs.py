"""How log lines are written, for the logging configurations in ``configs/`` and for a first run."""

import json
import logging
import sys
from datetime import datetime, timezone


class LogHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic for mypy only
    """Writes log lines to a stream, above the bars where it is a terminal with bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        if "tqdm" in sys.modules:
            with sys.modules["tqdm"].tqdm.external_write_mode(file=self.stream):
                super().emit(record)
        else:
            super().emit(record)


class JSONLines(logging.Formatter):
    r"""Makes each record one JSON object on one line, in ASCII, whatever its message holds.

    Examples
    --------
    >>> record = logging.LogRecord("pipeline", logging.INFO, "", 0, "Größe:\n%s", ("5 MB",), None)
    >>> line = JSONLines().format(record)
    >>> "\n" in line, json.loads(line)["message"]
    (False, 'Größe:\n5 MB')
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
