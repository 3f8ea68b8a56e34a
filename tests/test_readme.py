"""The README's commands do what it says. Its first two blocks are run by .ci/run, as a newcomer runs them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.luigid import free_port
from tests.support import EXAMPLE, ROOT, Workshop, tree

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_two_lines_are_all_that_a_newcomer_needs() -> None:
    first, second = blocks("sh")[:2]
    assert len(first.splitlines()) == len(second.splitlines()) == 1
    assert "luigi --module pipeline PublishRelease" in first
    assert "pytest" in second
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.fixture
def home(workshop: Workshop) -> Workshop:
    """A user's home folder with a project and the README's release file in it."""
    shutil.copytree(EXAMPLE, workshop.folder / "waveguide")
    (workshop.folder / "waveguide" / "release.yml").write_text(blocks("yaml")[0], encoding="utf-8")
    workshop.environment["HOME"] = str(workshop.folder)
    scripts = str(Path(sys.executable).parent)
    workshop.environment["PATH"] = os.pathsep.join([scripts, workshop.environment["PATH"]])
    return workshop


def sh(home: Workshop, command: str) -> str:
    here = command.replace("/srv/archive", str(home.archive)).replace("/srv/mirror", str(home.folder / "mirror"))
    done = subprocess.run(
        ["bash", "-euc", here], cwd=home.folder, env=home.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_everyday_commands_work_in_the_order_of_the_readme(home: Workshop) -> None:
    create, publish, rehearse, fetch, fetch_all, mirror, mirror_one, audits, sample = blocks("sh")[2:11]
    assert "is an archive now" in sh(home, create)
    assert "Published waveguide-calibration-v1.0.0" in sh(home, publish)
    before = tree(home.archive)
    assert "0 of 16 blobs would move" in sh(home, rehearse)
    assert tree(home.archive) == before
    assert "Fetched waveguide-calibration-v1.0.0" in sh(home, fetch)
    fetched = tree(home.folder / "data" / "waveguide-calibration-v1.0.0")
    assert {path: fetched[path] for path in tree(home.folder / "waveguide")} == tree(home.folder / "waveguide")
    home.project("cables", {"cable.csv": b"1,2\n"})
    home.publish("cables", "0.2.0", title="cable-models")
    assert "Fetched cable-models-v0.2.0" in sh(home, fetch_all)
    assert (home.folder / "data" / "cable-models-v0.2.0" / "cable.csv").is_file()
    assert (home.folder / "data" / "waveguide-calibration.lock").is_file()
    assert "2 releases, 17 blobs moved" in sh(home, mirror)
    assert "Nothing to do" in sh(home, mirror_one)
    victim = home.folder / "mirror" / home.blob_file(b"1,2\n", "cable-models").relative_to(home.archive)
    victim.write_bytes(b"1,3\n")
    said = sh(home, audits)
    assert "2 titles, 17 blobs" in said
    assert "1 damaged, 0 missing, 1 repaired" in said
    assert victim.read_bytes() == b"1,2\n"
    assert "Audited" in sh(home, sample)


def test_a_newcomer_tries_a_cdcs_site_as_the_readme_says(home: Workshop) -> None:
    playground, create, publish = blocks("sh")[11:14]
    port = free_port()
    command = [sys.executable, *playground.split()[1:], "--port", str(port), "--folder", str(home.folder / "site")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as site:
        try:
            assert site.stdout is not None
            told = "".join(iter(site.stdout.readline, "Press Ctrl-C to stop it.\n"))
            for name, task, said in (
                ("admin", create, "Release and BlobMetadata installed"),
                ("alice", publish, "Published waveguide-calibration-v1.0.0"),
            ):
                (password,) = re.findall(rf"^ +{name} +(\S+)", told, re.MULTILINE)
                home.environment["PIPELINE_PASSWORD"] = password
                assert said in sh(home, task.replace("127.0.0.1:8000", f"127.0.0.1:{port}"))
        finally:
            site.terminate()


def test_the_script_of_the_readme_works(home: Workshop) -> None:
    sh(home, blocks("sh")[2])
    sh(home, blocks("sh")[3])
    script = blocks("python")[0].replace("/srv/archive", str(home.archive))
    subprocess.run([sys.executable, "-c", script], cwd=home.folder, env=home.environment, check=True)
    assert (home.folder / "waveguide" / ".rme" / "record.yml").is_file()
    assert (home.folder / "waveguide" / "calibration" / "thru.s2p").is_file()


def test_every_setting_of_the_readme_exists(home: Workshop) -> None:
    names = re.findall(r"`\[pipeline\] (\w+)`", README)
    listed = subprocess.run(
        [sys.executable, "-c", "from pipeline.settings import pipeline; print(*dict(pipeline.get_params()))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(names) == sorted(listed.stdout.split())
