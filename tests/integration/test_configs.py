"""Every file in configs/ does what it says: luigid, nights, cron lines and units are run as they are shipped.

Only what belongs to one machine is put in place of what stands in the files: folders, ports, the archives.
"""

import configparser
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from email import message_from_bytes
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from aiosmtpd.controller import Controller
from cronsim import CronSim

from pipeline.archives.filesystem import create_archive
from pipeline.locks import locks_for
from tests.environments import debian_program
from tests.luigid import Scheduler, ends, free_port, wait_until
from tests.support import ROOT, Outcome, Workshop, assert_archive_is_sound, sha1

CONFIGS = ROOT / "configs"
FILES = {
    "luigid.cfg", "nightly.cfg", "logging.cfg", "logging-json.cfg", "crontab", "prometheus.yml",
    "systemd/release-pipeline-luigid.service", "systemd/release-pipeline@.service",
    "systemd/release-pipeline-mirror.timer", "systemd/release-pipeline-audit.timer",
}  # fmt: skip
SECRET = "wave-secret-1"
ANOTHER_RUN = {10, 25}
STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?:INFO|WARNING|ERROR) ")


class Mailbox:
    """A mail system on this machine, which keeps what it gets."""

    def __init__(self) -> None:
        self.mails: list[str] = []
        self.port = free_port()
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)
        self._controller.start()

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:  # noqa: N802  aiosmtpd's name
        mail = message_from_bytes(envelope.content)
        texts = [part.get_payload(decode=True) for part in mail.walk() if not part.is_multipart()]
        self.mails.append(f"{mail['Subject']}\n{mail['To']}\n" + b"\n".join(map(bytes, texts)).decode())
        return "250 OK"

    def close(self) -> None:
        self._controller.stop()


class Machine(Scheduler):
    """A machine with the shipped files in place, and luigid on it."""

    def __init__(self, folder: Path) -> None:
        self.etc, self.srv = folder / "etc", folder / "srv"
        self.etc.mkdir()
        (self.srv / ".venv" / "bin").mkdir(parents=True)
        self.mailbox = Mailbox()
        self.replaced: dict[str, str] = {}
        super().__init__(Workshop(folder))

    def configure(self) -> None:
        self.replaced |= {
            "/etc/release-pipeline": str(self.etc),
            "/srv/pipeline": str(self.srv),
            "https://cdcs.example.org": str(self.workshop.archive),
            "/srv/archive": str(self.mirror),
            "8082": str(self.port),
            "host = localhost": f"host = 127.0.0.1\nport = {self.mailbox.port}",
        }
        for name in sorted(FILES):
            self.install(name)
        for program, arguments in (
            ("python", ""),
            ("luigi", "-m luigi"),
            ("luigid", "-c 'from luigi.cmdline import luigid; luigid()'"),
        ):
            script = self.srv / ".venv" / "bin" / program
            script.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} {arguments} "$@"\n')
            script.chmod(0o755)
        self.environment |= {"LUIGI_CONFIG_PATH": str(self.etc / "luigid.cfg"), "PYTHONPATH": str(ROOT)}
        self.workshop.environment |= {
            "LUIGI_CONFIG_PATH": str(self.etc / "nightly.cfg"),
            "PIPELINE_TOKEN_SITE": SECRET,
        }
        (self.workshop.folder / "luigi.cfg").unlink()

    @property
    def mirror(self) -> Path:
        return self.workshop.folder / "mirror"

    def install(self, name: str, **changes: str) -> None:
        """Put a file in its place, with other values for some settings."""
        text = (CONFIGS / name).read_text(encoding="utf-8")
        for before, after in self.replaced.items():
            text = text.replace(before, after)
        for setting, value in changes.items():
            text, count = re.subn(rf"(?m)^{setting} = .*$", f"{setting} = {value}", text)
            assert count, f"{name} does not set {setting}"
        (self.etc / Path(name).name).write_text(text, encoding="utf-8")

    def restart(self) -> None:
        """End luigid as systemd does, and start it again."""
        self.stop(signal.SIGTERM)
        self.start()

    def night(self, task: str = "MirrorArchive") -> Outcome:
        """Run what runs every night."""
        return self.workshop.run(task)

    def shell(self, command: str, variables: Mapping[str, str]) -> Outcome:
        """Run a command with the poor environment of a service."""
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(self.srv), "LOGNAME": "pipeline", **variables}
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.srv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Outcome(done.returncode, done.stdout)

    def close(self) -> None:
        super().close()
        self.mailbox.close()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with two releases, made once."""
    workshop = Workshop(tmp_path_factory.mktemp("published"))
    for version in range(2):
        workshop.project(files={f"{n}.csv": b"%d,%d" % (version, n) * 500 for n in range(3)})
        outcome = workshop.publish(version=f"0.{version}.0")
        assert outcome.code == 0, outcome.output
    return workshop.archive


@pytest.fixture
def machine(tmp_path: Path, published: Path) -> Iterator[Machine]:
    shutil.copytree(published, tmp_path / "archive")
    create_archive(str(tmp_path / "mirror"))
    machine = Machine(tmp_path)
    yield machine
    machine.close()


def unit(name: str, folder: Path = CONFIGS / "systemd") -> configparser.SectionProxy:
    """Return what a unit says of its service."""
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys keep their case
    parser.read(folder / name, encoding="utf-8")
    return parser["Service"]


def releases(archive: Path) -> set[str]:
    """Return the names of all records and blobs in an archive."""
    files = [*archive.glob("*/*/*.yml"), *archive.glob("*/*/blobs/??/*")]
    return {file.relative_to(archive).as_posix() for file in files}


def settings(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(CONFIGS / name, encoding="utf-8")
    return parser


def test_every_file_is_used_by_these_tests() -> None:
    assert {file.relative_to(CONFIGS).as_posix() for file in CONFIGS.rglob("*") if file.is_file()} == FILES


def test_a_night_copies_what_the_mirror_lacks_and_tells_it_once_with_the_time(machine: Machine) -> None:
    outcome = machine.night()
    assert outcome.code == 0, outcome.output
    told = STAMP.split(outcome.output)[1:]
    assert STAMP.match(outcome.output), outcome.output
    assert len([line for line in told if line.startswith("Mirrored")]) == 3, outcome.output
    assert len(told) == len(set(told))
    assert "Warning" not in outcome.output
    assert "\r" not in outcome.output
    assert releases(machine.mirror) == releases(machine.workshop.archive)
    assert_archive_is_sound(machine.mirror)
    assert [*(machine.srv / "reports").rglob("*.html")]
    assert "Nothing to do" in machine.night().output
    assert STAMP.search((machine.folder / "output").read_text())


def test_the_readme_tells_how_to_see_what_a_night_would_do(machine: Machine) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = (line for line in readme.splitlines() if line.startswith("LUIGI_CONFIG_PATH="))
    command = command.replace("/etc/release-pipeline", str(machine.etc)).replace("luigi --", ".venv/bin/luigi --")
    outcome = machine.shell(command, {})
    assert outcome.code == 0, outcome.output
    assert "2 of 2 would be copied to mirror" in outcome.output
    assert all(file.partition("/")[0] in readme for file in FILES)


def test_what_luigid_knows_survives_its_restart(machine: Machine) -> None:
    assert machine.night().code == 0
    before = {name: machine.tasks(name) for name in ("MirrorArchive", "MirrorBlob")}
    machine.restart()
    assert all(before.values())
    assert {name: machine.tasks(name) for name in before} == before


def test_prometheus_reads_the_counts_of_a_night(machine: Machine) -> None:
    machine.replaced["# metrics_collector"] = "metrics_collector"
    machine.install("luigid.cfg")
    machine.restart()
    assert machine.night().code == 0
    (job,) = yaml.safe_load((machine.etc / "prometheus.yml").read_text())["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    with urlopen(f"http://{target}{job['metrics_path']}", timeout=10) as answer:
        counts = answer.read().decode()
    assert 'luigi_task_done_total{family="MirrorArchive"} 1.0' in counts
    assert 'luigi_task_done_total{family="MirrorBlob"}' in counts


def test_one_mail_tells_what_failed_in_a_night(machine: Machine) -> None:
    damaged = next(machine.workshop.archive.glob("*/*/blobs/??/*"))
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    outcome = machine.night()
    assert outcome.code == 30, outcome.output
    assert machine.mailbox.mails == []
    # What was not yet sent is sent when luigid ends.
    machine.stop(signal.SIGTERM)
    (mail,) = machine.mailbox.mails
    assert mail.startswith("[release-pipeline] Luigi: ")
    assert "archive-admin@example.org" in mail
    assert damaged.name in mail
    assert "MirrorBlob(" in mail
    assert "release=sample-v0.1.0" in mail or "release=sample-v0.0.0" in mail
    assert "Traceback" not in mail
    assert SECRET not in mail


def test_a_luigid_that_is_not_there_is_one_sentence_and_a_mail(machine: Machine) -> None:
    machine.stop(signal.SIGTERM)
    machine.install("nightly.cfg", rpc_retry_attempts="2", rpc_retry_wait="0")
    outcome = machine.night()
    assert outcome.code == 40
    assert outcome.output.count("luigid, the central scheduler, cannot be reached; start it") == 1
    assert "Traceback" not in outcome.output
    assert "NoneType" not in outcome.output
    (mail,) = machine.mailbox.mails
    assert "MirrorArchive" in mail
    assert SECRET not in mail


def test_a_night_waits_for_a_luigid_that_comes_back(machine: Machine) -> None:
    machine.stop(signal.SIGKILL)
    machine.install("nightly.cfg", rpc_retry_wait="1")
    run = machine.workshop.start("MirrorArchive")
    machine.runs.append(run)
    assert run.stdout is not None
    assert "Failed connecting" in next(line for line in run.stdout if "Failed" in line)
    machine.start()
    assert ends(run).code == 0
    assert_archive_is_sound(machine.mirror)


def test_what_a_killed_night_was_doing_is_taken_over(machine: Machine) -> None:
    """As the unit says: luigid is asked to forget it, and the command is run until no other run has it."""
    machine.stop(signal.SIGTERM)
    machine.install("luigid.cfg", worker_disconnect_delay="3", retry_delay="2")
    machine.install("nightly.cfg", ping_interval="1")
    machine.start()
    folder = machine.mirror / "Global Public Workspace" / "sample" / ".partial"
    folder.mkdir(parents=True)
    held, locks = sha1(b"0,0" * 500), locks_for(folder)
    assert locks.acquire([held])
    run = machine.workshop.start("MirrorArchive")
    machine.runs.append(run)
    machine.wait_until(lambda: machine.tasks("MirrorBlob", "RUNNING"), "a batch is running")
    run.kill()
    ends(run)
    locks.release([held])
    service = unit("release-pipeline@.service", machine.etc)
    before, command = (
        service[name].lstrip("-").replace("%i", "MirrorArchive") for name in ("ExecStartPre", "ExecStart")
    )
    variables = dict([service["Environment"].split("=", 1)])
    codes = []

    def is_done() -> bool:
        assert machine.shell(before, variables).code == 0
        codes.append(machine.shell(command, variables).code)
        return codes[-1] == 0

    wait_until(is_done, "the next run has taken over")
    assert set(codes[:-1]) <= ANOTHER_RUN
    assert set(map(int, service["RestartForceExitStatus"].split())) == ANOTHER_RUN
    assert service["SuccessExitStatus"] == service["RestartForceExitStatus"]
    assert_archive_is_sound(machine.mirror)
    assert releases(machine.mirror) == releases(machine.workshop.archive)


def test_a_killed_night_is_taken_over_within_30_seconds() -> None:
    scheduler, nightly = settings("luigid.cfg")["scheduler"], settings("nightly.cfg")
    service = unit("release-pipeline@.service")
    dead_after, idle = scheduler.getfloat("worker_disconnect_delay"), scheduler.getfloat("retry_delay")
    assert scheduler.getboolean("prune_on_get_work")
    # A run that waits asks again, once for what the dead one had and once when it may be done again.
    assert dead_after + idle + 2 * (1 + nightly.getfloat("worker", "wait_jitter")) < 30
    # The unit starts again when luigid takes it for dead, but not so late.
    assert dead_after < service.getfloat("RestartSec") < 30
    assert service["Restart"] == "on-abnormal"
    # A sign of life may get lost, and luigid may be busy with a mail.
    assert 2 * nightly.getfloat("worker", "ping_interval") < dead_after
    assert nightly.getfloat("worker", "ping_interval") + settings("luigid.cfg").getfloat("smtp", "timeout") < dead_after


def test_json_logs_are_one_object_on_each_line(machine: Machine) -> None:
    machine.install("nightly.cfg", logging_conf_file=str(machine.etc / "logging-json.cfg"))
    machine.workshop.project(files={"a.csv": b"1"})
    outcome = machine.workshop.publish(version="0.3.0", title="others", archive=machine.workshop.archive)
    assert outcome.code == 0, outcome.output
    lines = [json.loads(line) for line in outcome.output.splitlines()]
    assert all(line.keys() == {"time", "level", "logger", "message"} for line in lines)
    published = [line for line in lines if line["message"].startswith("Published")]
    assert len(published) == 1
    assert published[0]["message"].count("\n") == 1
    assert (published[0]["level"], published[0]["logger"]) == ("INFO", "pipeline")
    assert datetime.fromisoformat(published[0]["time"]).tzinfo == timezone.utc


def test_a_json_log_holds_exceptions_and_any_text(machine: Machine) -> None:
    program = (
        "import logging, logging.config, sys; logging.config.fileConfig(sys.argv[1])\n"
        "try: raise ValueError('two\\nlines')\n"
        "except ValueError: logging.getLogger('pipeline').exception('µ\\u2028\\ud800 %s', 'x')\n"
        "logging.getLogger('another').error('more', exc_info=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, machine.etc / "logging-json.cfg"],
        env={**machine.environment, "PYTHONIOENCODING": "ascii"},
        cwd=machine.folder,
        capture_output=True,
        check=True,
    )
    first, second = map(json.loads, done.stderr.splitlines())
    assert first["message"] == "µ\u2028\ud800 x"
    assert first["exception"].endswith("ValueError: two\nlines")
    assert "exception" not in second


# --- cron -------------------------------------------------------------------------------------------------------------


class Crontab:
    """The lines of a crontab, and how cron runs them."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.variables: dict[str, str] = {}
        self.commands: dict[str, str] = {}
        for line in (machine.etc / "crontab").read_text().splitlines():
            if assigned := re.fullmatch(r"(\w+) *= *(.*)", line):
                self.variables[assigned[1]] = assigned[2]
            elif line and not line.startswith("#"):
                when, command = re.fullmatch(r"(@reboot|(?:\S+ +){4}\S+) +(.*)", line).groups()  # type: ignore[union-attr]
                self.commands[command] = when

    def command(self, word: str) -> str:
        """Return the one command with a word."""
        (command,) = (command for command in self.commands if word in command)
        return command

    def run(self, word: str) -> Outcome:
        return self.machine.shell(self.command(word), {**self.variables, "HOME": str(self.machine.folder)})

    @property
    def log(self) -> str:
        """What was written for the night."""
        return (self.machine.srv / "nightly.log").read_text()


@pytest.fixture
def cron(machine: Machine) -> Crontab:
    return Crontab(machine)


def test_cron_understands_every_line(cron: Crontab) -> None:
    assert len(cron.commands) == 4
    for command, when in cron.commands.items():
        # Cron makes a new line of it.
        assert "%" not in command
        if when != "@reboot":
            assert next(CronSim(when, datetime(2026, 11, 23))).hour in range(2, 7)  # noqa: DTZ001  as cron does
    assert [when for when in cron.commands.values() if when.endswith(" 0")] == [
        cron.commands[cron.command("AuditArchive")]
    ]
    assert cron.variables["SHELL"] == "/bin/sh"


def test_cron_starts_luigid_and_a_night_that_it_need_not_tell_of(machine: Machine, cron: Crontab) -> None:
    machine.stop(signal.SIGTERM)
    command = cron.command("luigid.cfg")
    with subprocess.Popen(
        ["/bin/sh", "-c", command.replace("127.0.0.1", f"127.0.0.1 --port {machine.port}")],
        env={"PATH": "/usr/bin:/bin", **cron.variables},
        start_new_session=True,
    ) as luigid:
        try:
            wait_until(machine.is_there, "luigid answers")
            assert cron.run("pipeline MirrorArchive") == Outcome(0, "")
            assert "Mirrored" in cron.log
            assert_archive_is_sound(machine.mirror)
        finally:
            os.killpg(luigid.pid, signal.SIGTERM)
    # The shell that started it may end before it does.
    wait_until((machine.srv / "luigid.pickle").exists, "luigid has written what it knows")


def test_cron_mails_what_luigid_does_not(machine: Machine, cron: Crontab) -> None:
    damaged = next(machine.workshop.archive.glob("*/*/blobs/??/*"))
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    # The code is 30, and luigid sends a mail.
    assert cron.run("pipeline MirrorArchive") == Outcome(0, "")
    assert damaged.name in cron.log
    (machine.etc / "nightly.cfg").write_text("no configuration")
    outcome = cron.run("pipeline MirrorArchive")
    assert outcome.output
    assert outcome.output in cron.log


def test_nights_that_were_missed_are_made_up_for(machine: Machine, cron: Crontab) -> None:
    assert cron.run("RangeDailyBase") == Outcome(0, "")
    assert len(machine.tasks("MirrorArchive", "DONE")) > 1, cron.log
    assert releases(machine.mirror) == releases(machine.workshop.archive)


def test_what_was_damaged_is_whole_again_after_sunday(machine: Machine, cron: Crontab) -> None:
    assert machine.night().code == 0
    machine.install("nightly.cfg", sample="1")
    damaged = next(machine.mirror.glob("*/*/blobs/??/*"))
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    assert cron.run("AuditArchive") == Outcome(0, "")
    assert "Warning" not in cron.log
    assert "the blob is damaged: its bytes have another SHA-1; it is replaced from" in cron.log
    assert_archive_is_sound(machine.mirror)


# --- systemd ----------------------------------------------------------------------------------------------------------


def test_systemd_accepts_every_unit(machine: Machine) -> None:
    program, variables = debian_program("systemd-analyze", "systemd")
    units = sorted({*machine.etc.glob("*.timer"), *machine.etc.glob("*.service")})
    done = subprocess.run(
        [program, "verify", "--man=no", *units],
        env={**os.environ, **variables, "SYSTEMD_UNIT_PATH": f"{machine.etc}:"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(units) == 4
    started = [re.findall("Unit=release-pipeline@(.*).service", unit.read_text()) for unit in units]
    assert [*filter(None, started)] == [["AuditArchive"], ["MirrorArchive"]]


def test_systemd_hands_over_the_token_of_the_site(machine: Machine) -> None:
    (machine.etc / "token-site").write_text(SECRET + "\n")
    name, path = unit("release-pipeline@.service", machine.etc)["LoadCredential"].split(":")
    handed = machine.folder / "credentials"
    handed.mkdir()
    (handed / name).write_text(Path(path).read_text())
    machine.replaced["https://cdcs.example.org"] = "https://cdcs.example.org"
    machine.install("nightly.cfg")
    program = (
        "from pipeline.credentials import find_login\n"
        "from pipeline.settings import resolve_alias\n"
        "print(find_login(resolve_alias('site')).token)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            "CREDENTIALS_DIRECTORY": str(handed),
            "LUIGI_CONFIG_PATH": str(machine.etc / "nightly.cfg"),
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == SECRET + "\n"


def test_the_unit_of_luigid_starts_it_on_this_machine_only(machine: Machine) -> None:
    service = unit("release-pipeline-luigid.service", machine.etc)
    machine.stop(signal.SIGTERM)
    with subprocess.Popen(
        service["ExecStart"].split(), cwd=machine.folder, env=dict([service["Environment"].split("=", 1)])
    ) as luigid:
        try:
            wait_until(machine.is_there, "luigid answers")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", machine.port))
        finally:
            luigid.terminate()
    assert luigid.returncode == 0
