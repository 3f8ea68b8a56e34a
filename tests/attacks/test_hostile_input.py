"""What nobody would write is refused with a sentence, soon, in little memory, and without a word to the terminal."""

import gzip
import json
import os
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from pipeline.archives.cdcs.client import CDCSClient
from pipeline.documents import load_mapping
from pipeline.errors import ArchiveError, InvalidVersionError, RecordError, printable
from pipeline.patterns import Patterns
from pipeline.release import ReleaseRecord
from pipeline.release_file import read_release_file
from pipeline.versions import parse_version
from tests.attacks import fuzz, lying
from tests.attacks.mutation import CONTROLS, MARKUP
from tests.cdcs_server.fake import FakeSite
from tests.forked import ForkedWorkshop
from tests.support import sha1

# What takes longer gets fewer inputs; the long form takes as many as there is time for.
COUNTS = {"journal": 8, "journal rows": 8, "earlier report": 8, "hostile names": 12, "rules": 15}


@pytest.mark.parametrize("target", list(fuzz.TARGETS))
def test_whatever_is_read_is_a_value_or_a_sentence(target: str) -> None:
    tried, _, findings = fuzz.run(target, seed=6, count=COUNTS.get(target, 60))
    assert not findings
    assert tried


def test_whatever_a_site_says_is_a_value_or_a_sentence() -> None:
    _, refused, findings = lying.run(seed=6, count=25)
    assert not findings
    assert refused


# --- what would take for ever -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("glob", "path"),
    [
        ("*a" * 40 + "b", "a" * 250),
        ("*?" * 60 + "b", "a" * 250),
        ("a**a" * 30 + "b", "a" * 250),
        ("**/a/" * 20 + "b", "a/" * 500 + "c"),
        ("**/*a*a*/" * 10 + "b", "aaaaaaaaaa/" * 100 + "c"),
        ("[!b]*" * 40 + "b", "a" * 250),
    ],
)
def test_a_rule_with_many_stars_is_matched_at_once(glob: str, path: str) -> None:
    with fuzz.watched():
        assert Patterns([glob]).verdict(path, False) is None
        assert Patterns([glob]).verdict(path[:-1] + "b", False) in (None, True)


@pytest.mark.parametrize("number", ["!!int " + "1:" * 100_000 + "1", "!!int 0x" + "f" * 1_000_000, "9" * 100_000])
def test_a_number_of_many_digits_is_refused_at_once(number: str) -> None:
    with fuzz.watched(), pytest.raises(RecordError, match="too many digits"):
        load_mapping(f"title: {number}\n".encode(), "the record")


def test_rules_without_end_are_one_sentence(tmp_path: Path) -> None:
    workshop = ForkedWorkshop(tmp_path)
    workshop.project(files={"a.txt": b"alpha"})
    with (workshop.folder / "project" / ".gitignore").open("wb") as file:
        file.truncate(2**40)
    outcome = workshop.publish()
    assert outcome.code == 30
    assert re.search(r"\.gitignore is larger than \d+ characters; shorten it", outcome.output)
    assert "Traceback" not in outcome.output


# --- what would take all memory, or all of the stack ------------------------------------------------------------------


@pytest.mark.parametrize("depth", [100, 390, 410, 990, 5_000, 100_000])
def test_what_is_nested_deeply_is_handled_or_refused(tmp_path: Path, depth: int) -> None:
    """How deep Python can go is not the same everywhere: what is read must be within what everything else can do."""
    text = '{"x":' * depth + "1" + "}" * depth
    content = json.dumps(fuzz.RECORD)[:-1] + f', "workflow": {text}, "version": "0.1.0"}}'
    (tmp_path / "release.yml").write_text(f'{{"workflow": {text}}}')
    if depth < 400:
        record = ReleaseRecord.parse(content.encode(), "the record")
        assert ReleaseRecord.parse(record.dump(), "the record").same_release(record)
        assert read_release_file(tmp_path).workflow
    else:
        with pytest.raises(RecordError):
            ReleaseRecord.parse(content.encode(), "the record")


@pytest.mark.parametrize("field", ["title", "title_versionless", "version", "project"])
def test_a_field_that_is_nested_deeply_is_shown_or_refused(field: str) -> None:
    for depth in (398, 399, 400, *range(900, 1000, 7)):
        with pytest.raises(RecordError):
            ReleaseRecord.parse(
                json.dumps({**fuzz.RECORD, field: "?"}).replace('"?"', "[" * depth + "]" * depth).encode(), "it"
            )


@pytest.mark.parametrize(
    "text", ["[" + "[]," * 20_000 + "[]]", "[" + "{}," * 20_000 + "{}]", "[" + "1e9," * 20_000 + "1]"]
)
def test_memory_is_in_proportion_to_what_is_read(text: str) -> None:
    tracemalloc.start()
    try:
        load_mapping(text.encode(), "it")
        assert tracemalloc.get_traced_memory()[1] < 50 * len(text)
    finally:
        tracemalloc.stop()


def test_yaml_of_very_many_nodes_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.documents._MOST_YAML_NODES", 20_000)
    text = b"- [" + b"~," * 21_000 + b"~]\n"
    tracemalloc.start()
    try:
        with pytest.raises(RecordError, match="too large"):
            load_mapping(text, "it")
        assert tracemalloc.get_traced_memory()[1] < 20 * len(text)
    finally:
        tracemalloc.stop()


def test_an_answer_that_is_packed_twice_is_not_unpacked_at_once() -> None:
    bomb = gzip.compress(gzip.compress(bytes(2**25)))
    answer = {"content_encoding": "gzip, gzip"}
    with FakeSite(lambda visit, seen: visit.reply(200, bomb, **answer)) as site:
        client = CDCSClient(site.url, token="t", attempts=1, largest_answer=2**20)
        tracemalloc.start()
        try:
            with pytest.raises(ArchiveError, match="sends more than 1048576 bytes"):
                client.core_settings()
            assert tracemalloc.get_traced_memory()[1] < 2**24
        finally:
            tracemalloc.stop()
            client.close()


def test_a_text_without_end_does_not_fill_the_screen() -> None:
    with pytest.raises(InvalidVersionError) as caught:
        parse_version("1.0." + "9" * 1_000_000 + "x")
    assert len(str(caught.value)) < 20_000
    assert printable("a" * 5_000 + "b" * 5_000) == "a" * 5_000 + "b" * 5_000
    assert len(printable("\0" * 10**6)) < 10**5


# --- what would speak to the terminal or to a browser -----------------------------------------------------------------


def _evil(name: str) -> str:
    return f"{name} {CONTROLS} {MARKUP}".replace("/", "|").replace("\n", "")


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such names")
def test_no_name_or_text_speaks_to_the_terminal_or_to_a_browser(tmp_path: Path) -> None:
    (tmp_path / "workshop").mkdir()
    workshop = ForkedWorkshop(tmp_path / "workshop")
    files = {_evil("one"): b"alpha", f"{_evil('folder')}/{_evil('two')}": b"beta", "good.txt": b"good"}
    workshop.project(files=files)
    said = [workshop.publish(report_directory="reports", log_level="DEBUG").output]
    workshop.run("CreateArchive", archive="mirror")
    title = workshop.title_folder()
    workshop.blob_file(b"alpha").write_bytes(b"ALPHA")
    workshop.blob_file(b"beta").unlink()
    (title / "blobs" / _evil("aa")).write_bytes(b"?")
    (title / "blobs" / sha1(b"good")[:2] / _evil("blob")).write_bytes(b"?")
    (title.parent / _evil("title")).mkdir()
    (title.parent / MARKUP.replace("/", "|") / "blobs").mkdir(parents=True)
    (title.parent / MARKUP.replace("/", "|") / "blobs" / _evil("x")).write_bytes(b"?")
    _plant_record(title.parent / "other", {_evil("gone"): b"gone"})
    for task, options in (
        ("MirrorArchive", {"source": "archive", "destination": "mirror"}),
        ("AuditArchive", {"archive": "archive", "repair_from": "mirror"}),
        ("FetchRelease", {"title": "sample"}),
        ("FetchRelease", {"title": "other"}),
    ):
        said.append(workshop.run(task, **options, report_directory="reports", log_level="DEBUG").output)
    said.append(workshop.publish(version=_evil("v"), title=_evil("t"), report_directory="reports").output)
    shown = "\n".join(said)
    assert "Traceback" not in shown
    assert "one" in shown
    odd = [line[:300] for line in shown.split("\n") if not line.isprintable()]
    assert odd == []
    pages = list((workshop.folder / "reports").glob("*.html"))
    assert len(pages) >= 5
    for page in pages:
        fuzz.check_page(page)


def _plant_record(folder: Path, missing: dict[str, bytes]) -> None:
    project: dict[str, Any] = {
        name: {"/item/": "File", "/bytes/": len(data), "/sha1/": sha1(data), "/bpid/": sha1(data)}
        for name, data in missing.items()
    }
    record = {"title": "other-v0.1.0", "title_versionless": "other", "version": "0.1.0", "project": project}
    folder.mkdir()
    (folder / "other-v0.1.0.yml").write_text(json.dumps({**record, "origin": {"host": _evil("host"), "pid": 7}}))
