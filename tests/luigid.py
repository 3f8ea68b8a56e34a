"""A real luigid for the tests, asked by its HTTP API as its page does."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from tests.support import Outcome, Workshop

PATIENCE = 40.0
ALL = ("PENDING", "RUNNING", "BATCH_RUNNING", "DONE", "FAILED", "DISABLED", "UNKNOWN")
LUIGID = [sys.executable, "-c", "from luigi.cmdline import luigid; luigid()"]


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Return what a condition returns when it comes true."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.02)
    return value


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Scheduler:
    """A luigid on this machine, and the workshop whose tasks it schedules."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self.port = free_port()
        self.folder = workshop.folder / "luigid"
        self.folder.mkdir()
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("LUIGI_")}
        self.runs: list[subprocess.Popen[str]] = []
        self.configure()
        self.start()

    def configure(self) -> None:
        """Write the configuration of luigid, and that of the runs."""
        # As a site would have it that does not want to wait minutes for a worker that was killed.
        (self.folder / "luigi.cfg").write_text(
            "[scheduler]\nstate_path = state.pickle\nworker_disconnect_delay = 3\nprune_on_get_work = true\n"
            "max_shown_tasks = 20000\n"
        )
        config = self.workshop.folder / "central.cfg"
        config.write_text(
            "[core]\nlocal_scheduler = false\nscheduler_host = 127.0.0.1\n"
            f"scheduler_port = {self.port}\nrpc_retry_attempts = 60\nrpc_retry_wait = 1\n"
            "[worker]\nping_interval = 0.5\n"
        )
        self.workshop.environment["LUIGI_CONFIG_PATH"] = str(config)

    def start(self) -> None:
        """Start luigid, or start it again."""
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [*LUIGID, "--address", "127.0.0.1", "--port", str(self.port)],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        wait_until(self._answers, "luigid answers")

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "output").read_text()
        return self.is_there()

    def is_there(self) -> bool:
        """Tell whether luigid answers."""
        with contextlib.suppress(OSError):
            self.ask("task_list")
            return True
        return False

    def stop(self, how: int) -> None:
        """End luigid with a signal."""
        self.process.send_signal(how)
        self.process.wait(PATIENCE)

    def close(self) -> None:
        """End luigid and all runs."""
        for process in [*self.runs, self.process]:
            if process.poll() is None:
                process.kill()
            with process:
                pass

    def ask(self, question: str, **arguments: object) -> Any:
        """Ask luigid as its page does, and return the answer."""
        data = urllib.parse.quote(json.dumps(arguments))
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/{question}?data={data}", timeout=10) as answer:
            return json.load(answer)["response"]

    def wait_until(self, condition: Callable[[], Any], what: str) -> Any:
        """Return what a condition returns when it comes true; no use to wait when all runs have ended."""

        def come_true() -> Any:
            ended = all(run.poll() is not None for run in self.runs)
            value = condition()
            assert value or not ended, "".join(ends(run).output for run in self.runs)
            return value

        return wait_until(come_true, what)

    def tasks(self, name: str, *statuses: str) -> dict[str, dict[str, Any]]:
        """Return the tasks of a family that are in one of these states."""
        tasks = self.ask("task_list", status="", upstream_status="", search=name)
        return {
            key: task for key, task in tasks.items() if task["name"] == name and task["status"] in (statuses or ALL)
        }

    def publish(self, **options: object) -> "subprocess.Popen[str]":
        """Start a publishing."""
        options = {"title": "sample", "release_version": "0.1.0", "project_directory": "project", **options}
        self.runs.append(self.workshop.start("PublishRelease", create_archive=True, **options))
        return self.runs[-1]


def is_batch(task: dict[str, Any]) -> bool:
    """Tell whether a task is what Luigi made of several blobs."""
    return re.fullmatch(r"\d+ blobs, .+ \.\.\. .+", task["params"]["path"]) is not None


def ends(process: "subprocess.Popen[str]") -> Outcome:
    """Wait for a run, and return how it ended."""
    output, _ = process.communicate(timeout=PATIENCE)
    return Outcome(process.returncode, output)
