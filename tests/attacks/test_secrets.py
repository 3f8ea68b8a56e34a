"""Secrets that are planted everywhere are found nowhere; and where one is leaked on purpose, the search finds it."""

import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks import secrets
from tests.attacks.echoes import ECHOES, PLACES
from tests.attacks.searching import ProcessWatch, Search, spellings
from tests.attacks.secrets import PASSWORD
from tests.luigid import wait_until

SEED = 20261123


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[secrets.Vault]:
    with secrets.a_vault(tmp_path_factory.mktemp("vault")) as vault:
        yield vault


def test_planted_secrets_are_nowhere(vault: secrets.Vault) -> None:
    secrets.work_with_a_site(vault)
    secrets.look_at_processes(vault)
    secrets.type_at_a_prompt(vault)
    secrets.put_it_into_a_url(vault, most=2)
    secrets.crash(vault, ["a traceback", "a killed process", "a broken memory"])
    dice = random.Random(SEED)
    secrets.meet_a_site_that_echoes(vault, zip(dice.sample(list(ECHOES), len(PLACES)), PLACES, strict=True))
    secrets.go_through_a_proxy(vault, ["a message, 407"])
    leaks = vault.look_everywhere()
    assert not leaks, "\n".join(leaks)
    assert vault.search.files > 50


def test_a_script_that_asks_a_site_that_echoes_is_told_no_secret() -> None:
    leaks = secrets.ask_a_site_that_echoes(Search(secrets.SECRETS))
    assert not leaks, "\n".join(leaks)


# What a careless change would do: the sentence of an error, a log line of a library, a file in the cache.
_CARELESS = """
import logging, os, pathlib
from pipeline.archives.cdcs.http import Site
from pipeline.errors import ArchiveError
def careless(self, *arguments, **options):
    logging.getLogger("urllib3.careless").debug("header: %s", self._authorization().encode().hex())
    pathlib.Path(os.environ["HOME"], "." + self._password[-8:]).write_bytes(self._password.encode("utf-16-le"))
    raise ArchiveError(f"It is {self._token[::-1]!r}.")
Site.call = careless
"""


def test_what_is_leaked_on_purpose_is_found_in_every_place(vault: secrets.Vault) -> None:
    with vault.given(PIPELINE_USER="planted", PIPELINE_PASSWORD=PASSWORD):
        vault.run("FetchRelease", (30,), vault.fetch(), _CARELESS)
    leaks = vault.look_everywhere()
    places = {leak.split(":")[0].split(",")[0] for leak in leaks if "hold, " in leak or "the token, " in leak}
    files = {place.rpartition(".")[2] for place in places if place.startswith("work/")}
    assert any(place.startswith("output of run") for place in places), leaks
    assert "luigid" in places
    assert {"pickle", "json", "html"} <= files
    assert any(place.startswith("home/") for place in places)
    assert any("the token, hexadecimal" in leak for leak in leaks)
    for file in (vault.folder / "home").glob(".*"):
        file.unlink()


@pytest.mark.parametrize("way", sorted(spellings(PASSWORD)))
def test_a_secret_is_found_however_it_is_spelled(tmp_path: Path, way: str) -> None:
    search = Search({"the secret": PASSWORD})
    for number, spelled in enumerate(spellings(PASSWORD)[way]):
        (tmp_path / f"{number}").write_bytes(b"\0before" + spelled + b"after\xff")
    leaks = search.in_files(tmp_path)
    assert {leak for leak in leaks if way in leak} == {
        f"{number}: the secret, {way}" for number in range(len(spellings(PASSWORD)[way]))
    }
    assert not search.found("a text without it")


def test_a_secret_is_found_in_a_database_and_in_the_name_of_a_file(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "journal.sqlite3")
    connection.execute("CREATE TABLE known (value)")
    connection.execute("INSERT INTO known VALUES (?)", (PASSWORD,))
    connection.commit()
    connection.close()
    (tmp_path / "hunter-2-hunter").symlink_to("nowhere")
    (tmp_path / "given").write_text(PASSWORD)
    search = Search({"the secret": PASSWORD, "another": "hunter-2-hunter"})
    leaks = search.in_files(tmp_path, but=[tmp_path / "given"])
    assert "journal.sqlite3: the secret, as it is" in leaks
    assert "hunter-2-hunter: another, as it is" in leaks
    assert not any(leak.startswith("given") for leak in leaks)


@pytest.mark.parametrize("how", ["on its command line", "in its environment", "of its child"])
def test_a_secret_of_a_process_is_found(how: str) -> None:
    wait = [sys.executable, "-c", "input()"]
    commands = {
        "on its command line": [*wait, PASSWORD],
        "in its environment": wait,
        "of its child": [sys.executable, "-c", "import os, sys; os.spawnv(os.P_WAIT, sys.executable, eval(input()))"],
    }
    environment = {**os.environ, "PASSWORD": PASSWORD} if how == "in its environment" else None
    with (
        ProcessWatch(Search({"the secret": PASSWORD})) as watch,
        subprocess.Popen(commands[how], env=environment, stdin=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdin is not None
        if how == "of its child":
            process.stdin.write(f"{[*wait, PASSWORD]!r}\n")
            process.stdin.flush()
        wait_until(lambda: watch.leaks, "the secret is found")
        process.stdin.close()
    assert any("the secret, as it is" in leak for leak in watch.leaks)
