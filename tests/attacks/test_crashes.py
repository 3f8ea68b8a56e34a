"""Runs that are stopped at any step lose nothing, show nothing that is not whole, and complete when they are run again.

Each test draws some attacks from a seeded generator; the modules beside this one try all.
"""

import json
import os
import random
from collections.abc import Iterator

import pytest

from pipeline import FileSystemArchive
from pipeline.errors import ReleaseExistsError
from tests.attacks import kills, power
from tests.attacks.faults import KILLED, Fault, calls_about, calls_of, complaints, possible_faults
from tests.attacks.kills import TWO_WORKERS, badly_ended, killed_at, measured
from tests.attacks.scenes import SCENES, Scene, Scenery

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")

FAULTS = 5
KILLS = 1
FAILURES = 15
every_scene = pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)


@pytest.fixture(scope="module")
def scenery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenery]:
    """Folders with what each operation begins with."""
    return Scenery(tmp_path_factory.mktemp("scenery"))


@pytest.fixture
def dice(scene: Scene) -> random.Random:
    """The same chance on every machine."""
    return random.Random(scene.name)


@every_scene
def test_a_call_that_fails_is_told_in_a_sentence_and_harms_nothing(
    scenery: Scenery, scene: Scene, dice: random.Random
) -> None:
    with scenery.stage(scene) as stage:
        faults = list(possible_faults(calls_of(stage)))
    for fault in dice.sample(faults, FAULTS):
        with scenery.stage(scene) as stage:
            assert not complaints(stage, fault)[0], fault


@every_scene
def test_a_run_that_is_killed_harms_nothing(scenery: Scenery, scene: Scene, dice: random.Random) -> None:
    most, _ = measured(scenery, scene)
    with scenery.stage(scene) as stage:
        assert killed_at(stage, dice.randrange(1, most // 2)).code == KILLED
        assert not [*stage.broken(), *stage.completed()]
    for _ in range(KILLS):
        assert not kills.attack(scenery, scene, dice)[0]


@every_scene
def test_what_a_power_failure_leaves_is_right(scenery: Scenery, scene: Scene, dice: random.Random) -> None:
    history = power.undisturbed(scenery, scene)
    for _ in range(FAILURES):
        moment = dice.randrange(len(history.events))
        assert not power.fail_power(history, scenery, moment, dice, and_complete=False)
    assert not power.fail_power(history, scenery, dice.randrange(len(history.events)), dice)


@every_scene
def test_what_is_done_outlives_a_power_failure(scenery: Scenery, scene: Scene, dice: random.Random) -> None:
    history = power.undisturbed(scenery, scene)
    assert not power.fail_power(history, scenery, len(history.events), dice, share=0, and_complete=False)


@every_scene
def test_what_a_killed_run_began_and_another_one_did_outlives_a_power_failure(
    scenery: Scenery, scene: Scene, dice: random.Random
) -> None:
    events = power.undisturbed(scenery, scene).events
    after_new_names = [n for n, event in enumerate(events, 2) if event["call"] in ("mkdir", "link", "replace")]
    for change in dice.sample(after_new_names, 2):
        history = power.after_a_kill(scenery, scene, change)
        for moment in (len(history.events), dice.randrange(len(history.events))):
            assert not power.fail_power(history, scenery, moment, dice, share=0, and_complete=False), events[change - 2]


def test_a_record_is_not_written_into_although_its_publisher_was_killed_when_it_had_just_named_it(
    scenery: Scenery,
) -> None:
    with scenery.stage(SCENES["publish"]) as stage:
        calls = calls_of(stage)
    with scenery.stage(SCENES["publish"]) as stage:
        assert killed_at(stage, calls.index("link") + 2).code == KILLED
        published = stage.workshop.record_file().read_bytes()
        assert list(stage.workshop.title_folder().glob(".partial/*.part"))
        other = {**json.loads(published), "requirements": ["something-else"]}
        with pytest.raises(ReleaseExistsError):
            FileSystemArchive(stage.workshop.archive).upload_release_record(other)
        assert stage.workshop.record_file().read_bytes() == published
        assert not stage.completed()


def test_a_part_that_half_a_renaming_left_as_a_name_of_a_blob_is_not_written_into(scenery: Scenery) -> None:
    with scenery.stage(SCENES["audit"]) as stage:
        blob = next(blob for blob in stage.workshop.title_folder().glob("blobs/*/*") if blob.stat().st_size > 10_000)
        damaged = blob.read_bytes()
        (stage.workshop.title_folder() / ".partial").mkdir()
        os.link(blob, stage.workshop.title_folder() / ".partial" / f"{blob.name}.part")
        assert not stage.completed()
        assert [aside.read_bytes() for aside in stage.workshop.title_folder().glob(f".damaged/{blob.name}*")] == [
            damaged
        ]


@pytest.mark.parametrize("error", ["EIO", "EACCES"])
def test_what_cannot_be_looked_at_is_not_taken_for_missing(scenery: Scenery, error: str) -> None:
    with scenery.stage(SCENES["audit"]) as stage:
        seen = calls_about(stage)
    looks = [n for n, (name, path) in enumerate(seen, 1) if name == "lstat" and path.endswith("sample-v0.2.0.yml")]
    assert looks
    for step in looks:
        with scenery.stage(SCENES["audit"]) as stage:
            assert not complaints(stage, Fault(step, error))[0]


def test_a_record_that_cannot_be_read_after_its_repair_is_told(scenery: Scenery) -> None:
    with scenery.stage(SCENES["audit"]) as stage:
        seen = calls_about(stage)
    reads = [n for n, (name, path) in enumerate(seen, 1) if name == "open" and path.endswith("sample-v0.1.0.yml")]
    for step in reads[3:6]:
        with scenery.stage(SCENES["audit"]) as stage:
            assert not complaints(stage, Fault(step, "EIO"))[0]


def test_a_lock_that_cannot_be_taken_is_told_instead_of_waited_for(scenery: Scenery) -> None:
    with scenery.stage(SCENES["publish"]) as stage:
        calls = calls_of(stage)
    with scenery.stage(SCENES["publish"]) as stage:
        assert not complaints(stage, Fault(calls.index("lockf") + 1, "EIO", lasts=True))[0]


def test_a_task_whose_process_is_killed_is_told(scenery: Scenery) -> None:
    with scenery.stage(SCENES["publish"]) as stage:
        most, _ = measured(scenery, stage.scene)
        outcomes = [killed_at(stage, step, **TWO_WORKERS) for step in range(most // 4, most, most // 4)]
        assert not [wrong for outcome in outcomes for wrong in badly_ended(outcome)]
        assert not stage.completed()
