"""Nights without end: very many small runs, and a program that never ends. What they leave is counted, and never grows.

``python -m tests.attacks.load --runs 2000`` runs it for long. Nights are compressed: each is weeks after the last one,
luigid forgets after a moment what it else keeps for ten minutes, and the cache of digests is full with few folders.
"""

import argparse
import contextlib
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import pipeline.archives.cdcs.uploads
import pipeline.checksums
import pipeline.manifest
import pipeline.report
from pipeline.archives.filesystem import create_archive
from tests.cdcs import make_archive
from tests.cdcs_server import USERS, CDCSServer
from tests.forked import ForkedWorkshop
from tests.luigid import Scheduler, wait_until
from tests.support import Outcome

FIRST_NIGHT = date(2026, 1, 1)
BETWEEN_NIGHTS = timedelta(days=600)
KEPT_NIGHTS = 2
RUNS_EACH_ROUND = 9  # of a program that never ends
FOLDERS_IN_CACHE = 2
MANY_RUNS = 500
# What one more run may leave, after the first ones. All that is not named here: nothing.
ALLOWED = {
    "memory of luigid": 4000,
    "memory of the program": 200,
    "objects in the program": 0.1,
    "bytes in the cache": 100,
}


class Sample(NamedTuple):
    """What was counted after so many runs."""

    runs: int
    counts: dict[str, int]


def growth(samples: list[Sample]) -> dict[str, float]:
    """Return what each count grew by with each run: from the middle third to the last one, the first is a beginning."""
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[-third:]

    def typical(some: list[Sample], what: str) -> float:
        return statistics.median(sample.counts[what] for sample in some)

    runs = statistics.median(sample.runs for sample in last) - statistics.median(sample.runs for sample in middle)
    return {what: (typical(last, what) - typical(middle, what)) / runs for what in samples[0].counts}


def too_much(samples: list[Sample]) -> dict[str, float]:
    """Return what grows by more than it may. In few runs, the memory of luigid tells nothing."""
    grown = {what: by for what, by in growth(samples).items() if by > ALLOWED.get(what, 0)}
    if samples[-1].runs < MANY_RUNS:
        grown.pop("memory of luigid", None)
    return grown


def of_process(pid: int, name: str) -> dict[str, int]:
    """Return what the kernel says that a process holds."""
    proc = Path(f"/proc/{pid}")
    rollup = dict(line.split(":") for line in (proc / "smaps_rollup").read_text().splitlines()[1:])
    children = (task / "children" for task in (proc / "task").iterdir())
    return {
        f"memory of {name}": int(rollup["Pss"].split()[0]) * 1024,
        f"open files of {name}": len(os.listdir(proc / "fd")),
        f"threads of {name}": len(os.listdir(proc / "task")),
        f"children of {name}": sum(len(file.read_text().split()) for file in children if file.exists()),
    }


def files_in(folder: Path) -> list[Path]:
    """Return all files and folders below a folder."""
    return sorted(folder.rglob("*"))


def rows_in(file: Path) -> dict[str, int]:
    """Return how many rows the tables of a database have."""
    if not file.exists():
        return {}
    with contextlib.closing(sqlite3.connect(file)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables}


def leftovers(archive: Path) -> list[str]:
    """Return what is in an archive beside records, blobs and what an audit set aside."""
    mine = (
        "*.yml",
        "blobs",
        "blobs/??",
        "blobs/??/*",
        ".records",
        ".records/*",
        ".records/*/*",
        ".damaged",
        ".damaged/*",
    )
    known = {found for pattern in mine for found in archive.glob(f"*/*/{pattern}")}
    known |= {archive / ".rmearchive", *archive.glob("*"), *archive.glob("*/*")}
    return [str(path) for path in files_in(archive) if path not in known]


def of_folders(base: Path, cache: Path, archives: list[Path]) -> dict[str, int]:
    """Return what lies about in the folders that all runs share."""
    assert (cache / "audits-1.sqlite3").exists(), "the runs keep their cache elsewhere"
    journal, digests = rows_in(cache / "audits-1.sqlite3"), rows_in(cache / "digests-2.sqlite3")
    return {
        "temporary files": len(files_in(base / "tmp")),
        "files in the cache": len(files_in(cache)),
        "bytes in the cache": sum(file.stat().st_size for file in files_in(cache) if file.is_file()),
        "leftovers in the archives": sum(len(leftovers(archive)) for archive in archives),
        **{f"rows of {table}": journal.get(table, 0) for table in ("blobs", "turns", "finished")},
        "rows of digests": digests.get("digests", 0),
    }


def make_project(folder: Path, number: int) -> None:
    """Make a small project, some files of which are new each night."""
    (folder / "data").mkdir(parents=True)
    for file in range(5):
        (folder / "data" / f"{number}-{file}.csv").write_bytes(b"%d,%d\n" % (number, file) * 20)
    (folder / "same.csv").write_bytes(b"1,2\n")
    for file in folder.rglob("*.csv"):
        os.utime(file, (10**9, 10**9))  # a file of long ago gets into the cache of digests


def damage(archive: Path, title: str) -> None:
    """Turn the bytes of a blob round."""
    victim = max(archive.glob(f"*/{title}/blobs/*/*"))
    victim.write_bytes(victim.read_bytes()[::-1])


def throw_away(folder: Path, number: int) -> None:
    """Remove what is called after this night beside the archives, and what is in them since some nights."""
    for gone in [*folder.glob(f"night-{number}*"), *folder.glob(f"*/*/night-{number - KEPT_NIGHTS}")]:
        shutil.rmtree(gone)


def grow_old(cache: Path) -> None:
    """Let what runs left for others become as old as it is when the next night comes."""
    for manifest in cache.glob("manifests/*"):
        os.utime(manifest, (manifest.stat().st_mtime - BETWEEN_NIGHTS.total_seconds(),) * 2)


def compress_time() -> None:
    """Let limits be met within a few nights of this process and its children."""
    pipeline.checksums._MOST_FOLDERS = FOLDERS_IN_CACHE
    pipeline.manifest._DAY_SECONDS = 1e-3  # type: ignore[assignment]  # a shorter day than a whole second
    pipeline.report._NIGHTS_SHOWN = 3
    pipeline.archives.cdcs.uploads._INDEX_SECONDS = 1e-3


class Nights:
    """A machine with luigid, where each night a release is published, fetched, mirrored and audited.

    Parameters
    ----------
    folder : Path
        All that the machine has.
    site : CDCSServer, optional
        What it mirrors to and fetches from besides. Nothing is thrown away there, so an audit would know ever more.
    """

    def __init__(self, folder: Path, site: CDCSServer | None = None) -> None:
        self.shop = ForkedWorkshop(folder)
        self.site = site
        self.runs = 0
        self.samples: list[Sample] = []
        self.mirror = folder / "mirror"
        for made in (self.shop.archive, self.mirror):
            create_archive(made)
        (folder / "tmp").mkdir()
        self.shop.environment |= {"TMPDIR": str(folder / "tmp"), "PIPELINE_USER": "alice"}
        self.shop.environment |= {"PIPELINE_PASSWORD": USERS["alice"].password}
        self.luigid = _Luigid(self.shop)

    def run(self, task: str, code: int = 0, **options: object) -> Outcome:
        """Run a task that writes a report, and count it."""
        outcome = self.shop.run(task, report_directory="reports", **options)
        assert outcome.code == code, outcome.output
        self.runs += 1
        return outcome

    def night(self, number: int) -> None:
        """Publish, fetch, mirror, audit; what is older than some nights is thrown away."""
        when, title = FIRST_NIGHT + number * BETWEEN_NIGHTS, f"night-{number}"
        make_project(self.shop.folder / title, number)
        release: dict[str, object] = {"title": title, "archive": "archive"}
        for _ in ("new", "nothing to do"):
            self.run("PublishRelease", project_directory=title, release_version="1.0.0", **release)
        self.run("FetchRelease", destination=f"{title}-fetched", **release)
        self.run("MirrorArchive", date=when, source="archive", destination="mirror")
        if number % 4 == 1:
            damage(self.mirror, title)
            self.run("AuditArchive", 30, date=when, archive="mirror")
            self.run("FetchRelease", 30, destination=f"{title}-damaged", title=title, archive="mirror")
        self.run("AuditArchive", date=when, archive="mirror", repair_from="archive")
        if self.site is not None:
            there = self.site.base_url
            self.run("MirrorArchive", date=when, source="archive", destination=there, titles=title)
            self.run("FetchRelease", destination=f"{title}-from-site", title=title, archive=there)
        throw_away(self.shop.folder, number)
        grow_old(self.shop.folder / "cache")
        self.count()

    def count(self) -> None:
        """Count what there is, when luigid has forgotten the last run."""
        self.luigid.forget()
        counts = of_folders(self.shop.folder, self.shop.folder / "cache", [self.shop.archive, self.mirror])
        counts |= of_process(self.luigid.process.pid, "luigid")
        counts |= {"tasks in luigid": len(self.luigid.ask("task_list")), "processes left": len(_children())}
        counts["reports beside one for each run"] = len(files_in(self.shop.folder / "reports")) - 2 * self.runs
        self.samples.append(Sample(self.runs, counts))

    def close(self) -> None:
        """End luigid."""
        self.luigid.close()


class _Luigid(Scheduler):
    """A luigid for which a second is ten minutes."""

    def configure(self) -> None:
        super().configure()
        config = self.folder / "luigi.cfg"
        text = config.read_text().replace("worker_disconnect_delay = 3", "worker_disconnect_delay = 0.2")
        config.write_text(text.replace("max_shown", "remove_delay = 0.2\nmax_shown"))

    def forget(self) -> None:
        """Wait until nothing is left of the runs that have ended."""
        wait_until(lambda: not self.ask("worker_list") and not self.ask("task_list"), "luigid has forgotten the runs")


def _children() -> list[str]:
    return Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()


def live_long(folder: Path, rounds: int, url: str | None = None) -> list[Sample]:
    """Return what a program counted that lived for so many rounds."""
    shop = ForkedWorkshop(folder)
    shop.environment |= {"TMPDIR": str(folder / "tmp"), "PIPELINE_USER": "alice"}
    shop.environment["PIPELINE_PASSWORD"] = USERS["alice"].password
    (folder / "tmp").mkdir()
    command = [sys.executable, "-m", "tests.attacks.long_lived", str(folder), str(rounds), *([url] if url else [])]
    with (folder / "said").open("w") as said:
        done = subprocess.run(
            command, cwd=folder, env=shop.environment, stdout=subprocess.PIPE, stderr=said, check=False
        )
    assert not done.returncode, (folder / "said").read_text()[-3000:]
    return [Sample(*json.loads(line)) for line in done.stdout.splitlines() if line.startswith(b"[")]


@contextlib.contextmanager
def new_site(folder: Path) -> Iterator[CDCSServer]:
    """Give a CDCS site that is an archive."""
    with CDCSServer(folder) as server:
        make_archive(server)
        yield server


def report(name: str, samples: list[Sample]) -> bool:
    """Print what was counted, and return whether something grows."""
    print(f"\n{name}: {samples[-1].runs} runs, growth by each run from the middle third to the last")
    found = too_much(samples)
    for what, by in growth(samples).items():
        first, *_, last = (sample.counts[what] for sample in samples)
        print(f"  {what:<40} {first:>12} {last:>12} {by:>+12.2f}{'   GROWS' if what in found else ''}")
    return bool(found)


def main() -> None:
    """Run the long form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=int, default=2000, help="how many in all, half of them in programs that live long"
    )
    runs = parser.parse_args().runs
    compress_time()
    began, grows = time.monotonic(), False
    with tempfile.TemporaryDirectory() as base, new_site(Path(base) / "site") as site:
        for name, there in (("nights", None), ("nights with a site", site)):
            (folder := Path(base) / name).mkdir()
            with contextlib.closing(Nights(folder, there)) as nights:
                while nights.runs < runs / 4:
                    nights.night(len(nights.samples))
            grows |= report(name, nights.samples)
        for name, url in (("a long life", None), ("a long life with a site", site.base_url)):
            (folder := Path(base) / name).mkdir()
            grows |= report(name, live_long(folder, max(6, runs // 4 // RUNS_EACH_ROUND), url))
    print(f"\n{time.monotonic() - began:.0f} s")
    sys.exit(grows)


if __name__ == "__main__":
    main()
