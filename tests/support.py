"""What the tests of real runs share: a folder with a luigi.cfg, real luigi processes, and ways to look at files."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.transfer import Silent

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "tests" / "data" / "example-project"


@dataclass(frozen=True)
class Outcome:
    """How a luigi process ended: its exit code, and all that it wrote."""

    code: int
    output: str


class Workshop:
    """A folder where a user works: ``luigi.cfg``, an archive, projects, fetched releases."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archive = folder / "archive"
        shutil.copy(ROOT / "luigi.cfg", folder)
        self.configure("pipeline", cache_directory=folder / "cache")
        # Reading a project is part of some tests; the digests of another test must not spare it.
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("LUIGI_")}
        self.environment["PYTHONPATH"] = str(ROOT)

    def configure(self, section: str, **values: object) -> None:
        """Add a section to the configuration."""
        lines = [f"[{section}]", *(f"{name} = {value}" for name, value in values.items())]
        with (self.folder / "luigi.cfg").open("a", encoding="utf-8") as config:
            config.write("\n" + "\n".join(lines) + "\n")

    def command(self, task: str, **options: object) -> list[str]:
        """Return the command line of a task; True makes an option a flag, and None leaves it out."""
        command = [sys.executable, "-m", "luigi", "--module", "pipeline", task]
        for name, value in options.items():
            if value is not None and value is not False:
                command += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
        return command

    def start(self, task: str, **options: object) -> "subprocess.Popen[str]":
        """Start a task in a process of its own."""
        return subprocess.Popen(
            self.command(task, **options),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )

    def run(self, task: str, **options: object) -> Outcome:
        """Run a task to its end."""
        process = self.start(task, **options)
        output, _ = process.communicate(timeout=300)
        return Outcome(process.returncode, output)

    def project(self, name: str = "project", files: Mapping[str, bytes] | None = None) -> Path:
        """Make a project directory."""
        directory = self.folder / name
        directory.mkdir(exist_ok=True)
        for path, data in (files or {}).items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_bytes(data)
        return directory

    def publish(self, project: Path | str = "project", version: str = "0.1.0", **options: object) -> Outcome:
        """Publish a project under the title ``sample``."""
        options = {"title": "sample", "create_archive": True, **options}
        return self.run("PublishRelease", project_directory=project, release_version=version, **options)

    def fetch(self, **options: object) -> Outcome:
        """Fetch the release ``sample``."""
        return self.run("FetchRelease", **{"title": "sample", **options})

    def title_folder(self, title: str = "sample", workspace: str = "Global Public Workspace") -> Path:
        """Return the folder of a release in the archive."""
        return self.archive / workspace / title

    def record_file(self, version: str = "0.1.0", title: str = "sample") -> Path:
        """Return the file of a record in the archive."""
        return self.title_folder(title) / f"{title}-v{version}.yml"

    def blob_file(self, data: bytes, title: str = "sample") -> Path:
        """Return the file of a blob in the archive."""
        digest = sha1(data)
        return self.title_folder(title) / "blobs" / digest[:2] / digest


def sha1(data: bytes) -> str:
    """Return the SHA-1 of some bytes, by hashlib and not by the code under test."""
    return hashlib.sha1(data).hexdigest()


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return everything below a folder: relative path to content, None for a folder."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def assert_archive_is_sound(archive: Path) -> None:
    """Check, with nothing of the code under test, that every blob has the bytes that its name says."""
    for blob in archive.glob("*/*/blobs/??/*"):
        assert hashlib.sha1(blob.read_bytes()).hexdigest() == blob.name


def bytes_written(process: "subprocess.Popen[str]") -> int:
    """Wait for a process to end and return how many bytes it wrote to files, by the kernel's account."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    account = dict(line.split(": ") for line in Path(f"/proc/{process.pid}/io").read_text().splitlines())
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return int(account["wchar"])


class Counting(Silent):
    """A meter that counts bytes, and remembers what came to its end."""

    def __init__(self) -> None:
        self.nbytes = 0
        self.ended: list[tuple[str, int, bool, bool]] = []

    def advanced(self, name: str, nbytes: int) -> None:
        """Count."""
        self.nbytes += nbytes

    def finished(self, name: str, nbytes: int, error: Exception | None, moved: bool) -> None:
        """Remember."""
        self.ended.append((name, nbytes, error is None, moved))


# Everything that anybody logs, on standard error, as a logging_conf_file.
LOGS_ON_SCREEN = """
[loggers]
keys = root
[handlers]
keys = screen
[formatters]
keys = plain
[logger_root]
level = DEBUG
handlers = screen
[handler_screen]
class = StreamHandler
formatter = plain
args = (sys.stderr,)
[formatter_plain]
format = %(levelname)s: %(name)s %(message)s
"""
