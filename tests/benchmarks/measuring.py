"""What a whole process took: time from start to end, processor time, peak memory."""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_LONGEST_SECONDS = 3600


class CommandFailedError(Exception):
    """A command that was to be measured failed; says what it wrote."""


class Cost(NamedTuple):
    """What a process took: seconds from start to end, seconds of processor time, peak memory in MB."""

    seconds: float
    cpu: float
    memory: float


# A small process stands between: to the peak of a process Linux counts that of the one that started it.
# It waits without a timeout, which Python would keep by looking twenty times a second.
_MEASURE = f"""
import json, resource, subprocess, sys, tempfile, threading, time
with tempfile.TemporaryFile() as said:
    began = time.perf_counter()
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
    alarm = threading.Timer({_LONGEST_SECONDS}, process.kill)
    alarm.start()
    code = process.wait()
    seconds, usage = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    alarm.cancel()
    if code:
        said.seek(0)
        output = said.read()[-2000:].decode(errors="replace").rstrip()
        sys.exit(f"{{output}}\\nexit code {{code}} after {{seconds:.0f}} s")
print(json.dumps([seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6]))
"""


def measure(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str]) -> Cost:
    """Run a command and return what it took.

    Parameters
    ----------
    command : sequence of str or Path
        The program and its arguments.
    folder : Path
        Where it runs.
    environment : mapping
        All of its environment variables.

    Raises
    ------
    CommandFailedError
        When it ends with another code than 0, or runs for more than an hour.
    """
    measured = [sys.executable, "-I", "-S", "-c", _MEASURE, *command]
    ended = subprocess.run(measured, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise CommandFailedError(f"{' '.join(map(str, command))}\n{ended.stderr.strip()}")
    return Cost(*json.loads(ended.stdout))


def median(costs: Iterable[Cost]) -> Cost:
    """Return the median of each figure."""
    return Cost(*map(statistics.median, zip(*costs, strict=True)))


def together(costs: Iterable[Cost]) -> Cost:
    """Return what processes that ran one after the other took."""
    seconds, cpu, memory = zip(*costs, strict=True)
    return Cost(sum(seconds), sum(cpu), max(memory))
