"""The same commands with a central scheduler: a real luigid, asked by its HTTP API as its page does."""

import contextlib
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.locks import locks_for
from tests.luigid import Scheduler, ends, is_batch, wait_until
from tests.support import Workshop, assert_archive_is_sound, sha1, tree

# Luigi counts what the other worker did as not run, so that even the worker that publishes may end with 25.
SHARED = {0, 10, 25}


@pytest.fixture
def scheduler(workshop: Workshop) -> Iterator[Scheduler]:
    scheduler = Scheduler(workshop)
    yield scheduler
    scheduler.close()


@contextlib.contextmanager
def held(workshop: Workshop, data: bytes) -> Iterator[None]:
    """Hold the lock of a blob, so that the run that moves it waits."""
    folder = workshop.title_folder() / ".partial"
    folder.mkdir(parents=True, exist_ok=True)
    locks = locks_for(folder)
    assert locks.acquire([sha1(data)])
    try:
        yield
    finally:
        locks.release([sha1(data)])


def some_files(count: int) -> dict[str, bytes]:
    return {f"data/{n % 7}/point {n:04}.csv": b"%d," % n * 50 for n in range(count)}


def blobs_there(workshop: Workshop) -> int:
    return sum(1 for _ in workshop.title_folder().glob("blobs/??/*"))


def test_every_blob_is_listed_by_its_path_and_moved_in_batches(workshop: Workshop, scheduler: Scheduler) -> None:
    files = some_files(1000)
    workshop.project(files=files)
    outcome = workshop.publish()
    assert outcome.code == 0, outcome.output
    assert "1000 moved" in outcome.output
    tasks = scheduler.tasks("UploadBlob").values()
    batches = [task for task in tasks if is_batch(task)]
    assert {task["params"]["path"] for task in tasks if not is_batch(task)} == set(files)
    assert {task["status"] for task in tasks} == {"DONE"}
    assert 1 <= len(batches) <= 10
    for batch in batches:
        assert re.fullmatch(r"\d+ blobs, data/.+\.csv \.\.\. data/.+\.csv", batch["params"]["path"])
    for name in ("UploadReleaseRecord", "PublishRelease"):
        (task,) = scheduler.tasks(name).values()
        assert task["status"] == "DONE"
    assert workshop.publish().output.count("Nothing to do") == 1


def test_a_batch_names_its_members_as_one_range(workshop: Workshop, scheduler: Scheduler) -> None:
    workshop.project(files=some_files(450))
    assert workshop.publish().code == 0
    batches = [key for key, task in scheduler.tasks("UploadBlob").items() if is_batch(task)]
    members = [scheduler.ask("fetch_error", task_id=key)["taskParams"]["blobs"] for key in batches]
    assert sorted(members) == ["0-199", "200-399", "400-449"]


def test_a_fetch_lists_its_blobs_too(workshop: Workshop, scheduler: Scheduler) -> None:
    files = some_files(300)
    project = workshop.project(files=files)
    assert workshop.publish().code == 0
    outcome = workshop.fetch()
    assert outcome.code == 0, outcome.output
    tasks = scheduler.tasks("DownloadBlob").values()
    assert {task["params"]["path"] for task in tasks if not is_batch(task)} == set(files)
    assert {task["status"] for task in tasks} == {"DONE"}
    assert len([task for task in tasks if is_batch(task)]) <= 5
    (fetch,) = scheduler.tasks("FetchRelease").values()
    assert fetch["status"] == "DONE"
    fetched = tree(workshop.folder / "fetched" / "sample-v0.1.0")
    assert {name: data for name, data in fetched.items() if not name.startswith(".rme")} == tree(project)


def test_a_running_batch_says_how_far_it_is(workshop: Workshop, scheduler: Scheduler) -> None:
    files = {f"{n}.csv": b"%d" % n * 1000 for n in range(4)}
    workshop.project(files=files)
    with held(workshop, files["3.csv"]):
        run = scheduler.publish()

        def speaking() -> list[dict[str, Any]]:
            tasks = scheduler.tasks("UploadBlob", "RUNNING", "BATCH_RUNNING").values()
            # The percentage is told just after the message.
            told = [task for task in tasks if "3 of 4 blobs" in (task["status_message"] or "")]
            return [task for task in told if task["progress_percentage"] is not None]

        told = scheduler.wait_until(speaking, "a batch says how far it is")
        for task in told:
            assert "3.0 kB of 4.0 kB" in task["status_message"]
            assert task["progress_percentage"] == 75
        assert any(is_batch(task) for task in told)
    assert ends(run).code == 0


def test_a_failed_blob_has_a_reason_that_people_can_read(workshop: Workshop, scheduler: Scheduler) -> None:
    files = {f"{n}.csv": b"%d" % n * 1000 for n in range(4)}
    project = workshop.project(files=files)
    with held(workshop, files["3.csv"]):
        run = scheduler.publish()
        scheduler.wait_until(lambda: blobs_there(workshop) == 3, "the other blobs are there")
        (project / "3.csv").write_bytes(b"x" * 1000)
    outcome = ends(run)
    assert outcome.code == 30
    assert "Traceback" not in outcome.output
    failed = scheduler.tasks("UploadBlob", "FAILED")
    assert "3.csv" in {task["params"]["path"] for task in failed.values()}
    for key in failed:
        reason = scheduler.ask("fetch_error", task_id=key)["error"]
        assert "3.csv: it changed while it was being published" in reason
        assert "Traceback" not in reason
    assert not workshop.record_file().exists()
    # As it is now, it can be published; blobs that are there are not moved again.
    outcome = workshop.publish()
    assert outcome.code == 0, outcome.output
    assert "1 moved" in outcome.output


def test_a_plan_that_is_wrong_has_a_reason_that_people_can_read(workshop: Workshop, scheduler: Scheduler) -> None:
    workshop.project(files={"a.csv": b"1"})
    outcome = workshop.publish(version="first")
    assert outcome.code >= 20
    assert "Traceback" not in outcome.output
    (key,) = scheduler.tasks("PublishRelease", "FAILED")
    reason = scheduler.ask("fetch_error", task_id=key)["error"]
    assert "first" in reason
    assert "Traceback" not in reason


def test_two_workers_share_a_release(workshop: Workshop, scheduler: Scheduler) -> None:
    files = some_files(1000)
    workshop.project(files=files)
    # Whoever gets the batch with this blob waits in it; all other batches are left to the other worker.
    with held(workshop, files["data/0/point 0000.csv"]):
        runs = [scheduler.publish(), scheduler.publish()]
        scheduler.wait_until(lambda: blobs_there(workshop) == 999, "all other blobs are there")
    outcomes = [ends(run) for run in runs]
    assert {outcome.code for outcome in outcomes} <= SHARED, outcomes
    assert any("Published sample-v0.1.0: 1000 blobs" in outcome.output for outcome in outcomes)
    assert not any("Traceback" in outcome.output for outcome in outcomes)
    assert workshop.record_file().exists()
    assert not (workshop.title_folder() / ".partial").exists()
    assert_archive_is_sound(workshop.archive)
    (task,) = scheduler.tasks("PublishRelease").values()
    assert task["status"] == "DONE"


def test_two_workers_that_stay_to_the_end_leave_one_whole_release(workshop: Workshop, scheduler: Scheduler) -> None:
    """Either of them may get the record or the release, whoever moved the blobs."""
    files = some_files(600)
    workshop.project(files=files)
    with held(workshop, files["data/0/point 0000.csv"]):
        runs = [scheduler.publish(worker_keep_alive=True, worker_wait_interval=1, worker_wait_jitter=0) for _ in "ab"]
        scheduler.wait_until(lambda: blobs_there(workshop) == 599, "all other blobs are there")
    outcomes = [ends(run) for run in runs]
    assert {outcome.code for outcome in outcomes} <= SHARED, outcomes
    assert any("Published sample-v0.1.0: 600 blobs" in outcome.output for outcome in outcomes)
    assert not any("Traceback" in outcome.output for outcome in outcomes)
    assert_archive_is_sound(workshop.archive)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_a_luigid_that_is_restarted_in_the_middle_stops_nobody_for_long(
    workshop: Workshop, scheduler: Scheduler, how: str
) -> None:
    files = some_files(300)
    workshop.project(files=files)
    with held(workshop, files["data/0/point 0000.csv"]):
        run = scheduler.publish()
        scheduler.wait_until(lambda: blobs_there(workshop) > 0, "some blobs are there")
        scheduler.stop(getattr(signal, how))
    scheduler.start()
    # What becomes of the run depends on what luigid remembers; what matters is that it ends, and how the next one does.
    before = ends(run)
    assert before.code >= 0
    outcome = workshop.publish()
    assert outcome.code == 0, outcome.output
    assert workshop.record_file().exists()
    assert blobs_there(workshop) == 300
    assert_archive_is_sound(workshop.archive)
    assert not (workshop.title_folder() / ".partial").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
def test_a_killed_worker_is_soon_forgotten_and_the_same_command_completes(
    workshop: Workshop, scheduler: Scheduler
) -> None:
    files = some_files(300)
    workshop.project(files=files)
    with held(workshop, files["data/0/point 0000.csv"]):
        run = scheduler.publish()
        scheduler.wait_until(lambda: scheduler.tasks("UploadBlob", "BATCH_RUNNING"), "a batch is running")
        run.kill()
        ends(run)
    codes = []

    def completed() -> bool:
        codes.append(workshop.publish().code)
        return codes[-1] == 0

    wait_until(completed, "the command completes")
    # Until luigid forgets the killed worker, it says that another run is doing it, and nothing worse.
    assert set(codes[:-1]) <= SHARED
    assert blobs_there(workshop) == 300
    assert_archive_is_sound(workshop.archive)
    assert not (workshop.title_folder() / ".partial").exists()


def test_what_luigid_is_told_holds_no_secret(workshop: Workshop, scheduler: Scheduler) -> None:
    workshop.project(files={"a.csv": b"1"})
    workshop.publish(archive="https://reader:wave-secret@127.0.0.1:9/")
    told = json.dumps(scheduler.ask("task_list", status="", upstream_status=""))
    for key in scheduler.tasks("PublishRelease"):
        told += scheduler.ask("fetch_error", task_id=key)["error"]
    assert "wave-secret" not in told
    assert "wave-secret" not in Path(scheduler.folder / "output").read_text()
