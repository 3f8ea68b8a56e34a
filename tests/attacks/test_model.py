"""Whatever is done with archives, they hold what the model says and the runs say what it expects.

What random sequences found is kept here as short stories, too.
"""

import os
from pathlib import Path

import pytest

from tests.attacks.model import Machine, attack, site_machine
from tests.forked import ForkedWorkshop
from tests.support import tree

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that can be forked")


def test_random_sequences_leave_folders_as_the_model_says() -> None:
    attack(Machine, 3)


def test_random_sequences_leave_a_site_and_its_mirror_as_the_model_says(tmp_path: Path) -> None:
    with site_machine(tmp_path / "site") as machine:
        attack(machine, 2, steps=8)


@pytest.mark.parametrize("how", ["flipped", "truncated", "deleted"])
def test_each_task_meets_each_kind_of_damage_as_the_model_says(how: str) -> None:
    machine = Machine()
    machine.begin("Global Public Workspace")
    machine.mirror_releases(back=False, title=None, moment=None)
    for number, then in enumerate(("fetch", "publish", "mirror", "audit", "repair")):
        for where in ("archive", "mirror") if then != "publish" else ("archive",):
            blob = sorted(machine.both[where].blobs())[number % 2]
            machine.damage(where, how, blob, 7 * number, then)
            machine.the_archives_are_as_the_model()
            machine.audit(where=where, repair=True, moment=None)
            machine.the_archives_are_as_the_model()
            assert machine.is_intact
    machine.teardown()


@pytest.fixture
def workshop(tmp_path: Path) -> ForkedWorkshop:
    """An archive with one release, and an empty mirror."""
    (tmp_path / "workshop").mkdir()
    workshop = ForkedWorkshop(tmp_path / "workshop")
    workshop.project(files={"a.csv": b"1,2,3", "b.csv": b"4,5,6"})
    assert workshop.publish().code == 0
    assert workshop.run("CreateArchive", archive="mirror").code == 0
    return workshop


def test_a_flipped_bit_in_a_record_gives_no_fetched_file_another_name(workshop: ForkedWorkshop) -> None:
    record = workshop.record_file()
    record.write_bytes(record.read_bytes().replace(b"a.csv", b"c.csv"))
    outcome = workshop.fetch()
    assert outcome.code == 30
    assert (
        "sample-v0.1.0.yml does not have the bytes that were published; AuditArchive can repair it." in outcome.output
    )
    assert not (workshop.folder / "fetched").exists()


def test_a_record_that_is_lost_is_told_and_restored_from_its_second_copy(workshop: ForkedWorkshop) -> None:
    assert workshop.run("MirrorArchive", source="archive", destination="mirror").code == 0
    before = tree(workshop.archive)
    workshop.record_file().unlink()
    outcome = workshop.run("AuditArchive", archive="archive")
    assert outcome.code == 30
    assert "sample-v0.1.0: the record is missing, and only its second copy in " in outcome.output
    outcome = workshop.run("AuditArchive", archive="archive", repair_from="mirror")
    assert outcome.code == 0, outcome.output
    assert "it was repaired from its second copy" in outcome.output
    assert tree(workshop.archive) == before


def test_a_copy_of_a_record_that_may_never_have_been_published_is_told_and_left_alone(workshop: ForkedWorkshop) -> None:
    workshop.record_file().unlink()
    before = tree(workshop.archive)
    outcome = workshop.run("AuditArchive", archive="archive", repair_from="mirror")
    assert outcome.code == 30
    assert "mirror does not have it, so that it may never have been published; publish it again" in outcome.output
    assert tree(workshop.archive) == before
    assert workshop.publish().code == 0
    assert workshop.run("AuditArchive", archive="archive").code == 0


def test_a_copy_of_a_record_that_is_just_being_published_is_no_finding(workshop: ForkedWorkshop) -> None:
    workshop.record_file().unlink()
    (workshop.title_folder() / ".partial").mkdir()
    outcome = workshop.run("AuditArchive", archive="archive")
    assert outcome.code == 0, outcome.output
