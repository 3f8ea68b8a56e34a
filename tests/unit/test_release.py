"""Records survive being written and read, by this project and by any YAML reader; hostile ones are refused at once."""

import copy
import hashlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date, datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pipeline.documents
from pipeline.archives.cdcs.contents import SEAL, is_sealed
from pipeline.documents import dump_mapping, load_mapping
from pipeline.errors import RecordError
from pipeline.release import (
    ATTRS,
    BYTES,
    FILE,
    FILE_TYPE,
    FOLDER,
    HDF5_FILE,
    ITEM,
    KEYS,
    PATH,
    PID,
    SHA1,
    Blob,
    ReleaseRecord,
    walk_mapping,
)

ABC, XYZ = hashlib.sha1(b"abc").hexdigest(), hashlib.sha1(b"xyz").hexdigest()


def is_one_sentence(error: BaseException) -> bool:
    return str(error).isprintable() and str(error).endswith(".")


def file(path: str, content: bytes = b"abc", item: str = FILE) -> dict[str, Any]:
    """Return the node of a file as it stands in a record."""
    digest = hashlib.sha1(content).hexdigest()
    node = {PATH: path, ATTRS: {}, ITEM: item, FILE_TYPE: "misc", BYTES: len(content), SHA1: digest}
    return node | {PID: digest if content else None}


def folder(path: str, children: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the node of a folder as it stands in a record."""
    return {PATH: path, ATTRS: {}, ITEM: FOLDER} | (children or {})


def a_record(project: Any = MappingProxyType({}), **changes: Any) -> dict[str, Any]:
    """Return a valid record, with some fields changed."""
    record: dict[str, Any] = {
        "title": "waveguide-calibration-v0.1.0",
        "title_versionless": "waveguide-calibration",
        "version": "0.1.0",
        "workflow_config_path": "release.yml",
        "workflow": {},
        "requirements": [],
        "project": {"a.csv": file("a.csv")} if isinstance(project, MappingProxyType) else project,
        "datasets": {},
    }
    return record | changes


# Any valid record

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\\\0"), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..") and os.name != "nt"
)
# Few contents, so that identical files are common.
TREES = st.recursive(
    st.sampled_from([b"", b"abc", b"xyz", b"\0" * 1000]),
    lambda tree: st.dictionaries(NAMES, tree, max_size=4),
    max_leaves=8,
)
# Floats have a story of their own below.
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda value: st.lists(value, max_size=3) | st.dictionaries(st.text(max_size=8), value, max_size=3),
    max_leaves=6,
)


def files_of(tree: dict[str, Any], prefix: str = "") -> dict[str, bytes | None]:
    """Return the paths of a tree of names: a file's content, None for a folder."""
    found: dict[str, bytes | None] = {}
    for name, content in tree.items():
        if isinstance(content, bytes):
            found[prefix + name] = content
        else:
            found |= {prefix + name: None} | files_of(content, f"{prefix}{name}/")
    return found


def mapping_of(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    return {
        name: file(prefix + name, content)
        if isinstance(content, bytes)
        else folder(prefix + name) | mapping_of(content, f"{prefix}{name}/")
        for name, content in tree.items()
    }


PROJECTS = st.dictionaries(NAMES, TREES, max_size=4)
RECORDS = st.builds(
    lambda tree, workflow, requirements, path: a_record(
        mapping_of(tree), workflow=workflow, requirements=requirements, workflow_config_path=path
    ),
    PROJECTS,
    VALUES,
    st.lists(st.text(max_size=8), max_size=2),
    st.text(max_size=8),
)


@settings(deadline=None, max_examples=80)
@given(RECORDS)
def test_a_record_that_was_written_is_read_as_it_was(content: dict[str, Any]) -> None:
    record = ReleaseRecord(copy.deepcopy(content))
    again = ReleaseRecord.parse(record.dump(), "the archive")
    assert repr(again.content) == repr(content)
    assert again.dump() == record.dump()
    assert again.same_release(record)
    assert (again.folders, again.empty_files, again.blobs) == (record.folders, record.empty_files, record.blobs)


def test_the_digest_of_a_record_is_that_of_what_is_stored() -> None:
    record = ReleaseRecord(a_record())
    assert record.digest == hashlib.sha1(record.dump()).hexdigest()


@settings(deadline=None, max_examples=60)
@given(RECORDS)
def test_every_yaml_reader_reads_the_same_from_it(content: dict[str, Any]) -> None:
    data = ReleaseRecord(content).dump()
    assert repr(yaml.safe_load(data)) == repr(content)
    assert repr(json.loads(data)) == repr(content)


@settings(deadline=None, max_examples=80)
@given(PROJECTS)
def test_a_record_lists_every_folder_every_empty_file_and_every_blob_once(tree: dict[str, Any]) -> None:
    paths = files_of(tree)
    record = ReleaseRecord(a_record(mapping_of(tree)))
    assert record.folders == sorted(path for path, content in paths.items() if content is None)
    assert record.empty_files == sorted(path for path, content in paths.items() if content == b"")
    expected = {
        hashlib.sha1(data).hexdigest(): (
            len(data),
            tuple(sorted(path for path, other in paths.items() if other == data)),
        )
        for data in paths.values()
        if data
    }
    assert {blob.digest: (blob.size, blob.paths) for blob in record.blobs} == expected
    assert len(record.blobs) == len(expected)
    assert [blob.paths[0] for blob in record.blobs] == sorted(paths[0] for _, paths in expected.values())
    assert record.nbytes == sum(size for size, _ in expected.values())
    assert {node.path for node in walk_mapping(record.content["project"], "here")} == set(paths)


@pytest.mark.parametrize(
    "text",
    [
        *("\x00", "\x07", "\t", "\r\n", "\x1b[31m", "\x7f", "\x80\x85\x9f", "\xa0", "\xad", "\u2028\u2029", "\ufeff"),
        *(
            "\ufffe",
            "\uffff",
            "\U0001fffe",
            "\U0010ffff",
            "Größe µm – Übersicht",
            "漢字",
            "👩🏽‍🔬",
            "e\u0301",
            "\u202e",
        ),
        *("yes", "null", "~", "1.0", "0o17", "1_000", "2024-01-01", "1:30", "<<", "=", "!!python/object", "&a", "*a"),
        *("", " ", "# no comment", "a: b", "- a", "'", '"', "\\", "\\n", "%YAML 1.1", "---", "...", "[", "{", "@", "`"),
    ],
)
def test_odd_text_means_the_same_to_a_yaml_reader_as_value_and_as_key(text: str) -> None:
    content = {"value": text, f"{text} ": [text], "nested": {text: {"deeper": text}}}
    data = dump_mapping(content)
    assert yaml.safe_load(data) == json.loads(data) == load_mapping(data, "here") == content
    assert len(data.decode().split("\n")) == len(content) + 3


@pytest.mark.parametrize("number", [1e16, 1e-7, 1e300, 5e-324, -1e22, 0.1, 1.5e-7, -0.0, 1.0, 123456.789])
def test_a_float_stays_a_float_for_a_yaml_reader(number: float) -> None:
    data = dump_mapping({"attenuation": number, "nested": [{"value": number}]})
    assert repr(yaml.safe_load(data)) == repr({"attenuation": number, "nested": [{"value": number}]})
    assert repr(json.loads(data)) == repr(yaml.safe_load(data))


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_finite_float_stays_what_it_is_for_this_project(number: float) -> None:
    assert repr(load_mapping(dump_mapping({"a": number}), "here")) == repr({"a": number})


def test_a_key_that_a_yaml_reader_would_not_find_is_refused() -> None:
    # YAML looks for the colon of a simple key within 1024 characters.
    content = {"workflow": {"k" * 900: 1}}
    assert yaml.safe_load(dump_mapping(content)) == content
    with pytest.raises(RecordError, match="too long for a record"):
        dump_mapping({"workflow": {"k" * 2000: 1}})


@pytest.mark.parametrize("text", [":", ":x", "a:", '":', '\\":', ", "])
def test_a_text_with_a_colon_behind_much_without_quotes_is_not_taken_for_a_long_key(text: str) -> None:
    content = {"workflow": {"numbers": list(range(1000)), text: text, "more": [text, list(range(1000)), text]}}
    assert yaml.safe_load(dump_mapping(content)) == content


def test_a_long_text_full_of_quotes_is_written_in_a_moment() -> None:
    # JSON inside of JSON, as tools that write configurations like it.
    content = {"workflow": json.dumps([{"name": str(i)} for i in range(3_000)])}
    started = time.monotonic()
    assert json.loads(dump_mapping(content)) == content
    assert time.monotonic() - started < 2


def test_a_record_is_utf8_with_one_top_level_key_a_line() -> None:
    content = a_record(workflow={"description": "Größe µm"})
    lines = ReleaseRecord(content).dump().decode("utf-8").splitlines()
    assert lines[0] == "{"
    assert lines[-1] == "}"
    assert [line.split(":")[0].strip('"') for line in lines[1:-1]] == list(KEYS)
    assert '"description": "Größe µm"' in lines[5]


@pytest.mark.parametrize(
    "value",
    ["\ud800", {"\udcff": 1}, [float("nan"), "\ud800"], object(), 10**5000],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_json_form_is_never_written(value: Any) -> None:
    for content in ({"workflow": value}, {"workflow": [{"deep": value}]}):
        with pytest.raises(RecordError, match="cannot be written as JSON") as caught:
            dump_mapping(content)
        assert is_one_sentence(caught.value)


def test_what_has_a_yaml_form_only_is_written_as_yaml() -> None:
    odd = {
        "limits": [float("inf"), -float("inf"), 1e-7],
        "day": date(2026, 3, 1),
        "text": "é: {,}\x85 yes",
        "none": None,
    }
    data = dump_mapping(
        {"title": "é", "workflow": odd, "at": datetime(2026, 3, 1, 12, 30, tzinfo=timezone.utc), "nan": float("nan")}
    )
    read = load_mapping(data, "it")
    assert math.isnan(read.pop("nan"))
    assert read == {"title": "é", "workflow": odd, "at": datetime(2026, 3, 1, 12, 30, tzinfo=timezone.utc)}
    assert len(data.splitlines()) == 6


def test_what_contains_itself_or_has_no_end_is_never_written() -> None:
    itself: dict[str, Any] = {}
    itself["workflow"] = itself
    deep: Any = {}
    for _ in range(200_000):
        deep = {"a": deep}
    for content in (itself, {"workflow": deep}):
        with pytest.raises(RecordError, match="cannot be written as JSON"):
            dump_mapping(content)
    while deep:  # taken apart by hand: some Pythons free nested mappings by recursion
        deep = deep.pop("a")


# Records of the earlier tool

EARLIER = f"""
title: waveguide-calibration-v0.1.0
title_versionless: waveguide-calibration
version: 0.1.0
workflow_config_path: rmellipse.yml
workflow: {{}}
requirements: []
datasets:
  terms: calibration/terms.h5
project:
  calibration:
    /path/: calibration
    /item/: Directory
    /attrs/: &id001 {{}}
    terms.h5:
      /path/: calibration/terms.h5
      /item/: H5_File
      /file-type/: misc
      /attrs/: *id001
      /bytes/: 3
      /bpid/: {hashlib.sha256(b"abc").hexdigest()}
      port1:
        /path/: /port1
        /item/: Group
        s11: {{/item/: Dataset, /attrs/: *id001}}
      ../port2: {{}}
    empty.csv: {{/path/: calibration/empty.csv, /item/: File, /bytes/: 0, /bpid/: null}}
"""


def test_a_yaml_record_of_the_earlier_tool_is_read() -> None:
    record = ReleaseRecord.parse(EARLIER.encode(), "waveguide-calibration-v0.1.0.yml")
    digest = hashlib.sha256(b"abc").hexdigest()
    assert record.blobs == [Blob(digest, 3, ("calibration/terms.h5",), digest)]
    assert record.folders == ["calibration"]
    assert record.empty_files == ["calibration/empty.csv"]
    assert record.content["datasets"] == {"terms": "calibration/terms.h5"}


def test_what_hdf5_files_hold_inside_is_kept_and_not_taken_for_files() -> None:
    project = {"a.h5": file("a.h5", item=HDF5_FILE) | {"group": {ITEM: "Group"}, "/etc/passwd": {}, "..": {ITEM: FILE}}}
    record = ReleaseRecord(a_record(project))
    assert [blob.paths for blob in record.blobs] == [("a.h5",)]
    assert ReleaseRecord.parse(record.dump(), "here").content["project"] == project


def test_a_byte_order_mark_is_no_part_of_a_record() -> None:
    content = a_record(workflow={"attenuation": 1e-07})  # a number in JSON, a text in YAML: it must be read as JSON
    data = b"\xef\xbb\xbf" + json.dumps(content).encode()
    assert ReleaseRecord.parse(data, "here").content == content


# The same release, wherever it is


def test_where_the_blobs_are_is_no_part_of_what_a_release_is() -> None:
    record = ReleaseRecord(a_record({"data": folder("data", {"a.csv": file("data/a.csv"), "e": file("data/e", b"")})}))
    moved = ReleaseRecord(copy.deepcopy(record.content))
    moved.set_pids({ABC: "https://archive.example/pid/1"})
    assert moved.blobs == ReleaseRecord(record.content).blobs
    assert ReleaseRecord(moved.content).blobs == [Blob(ABC, 3, ("data/a.csv",), "https://archive.example/pid/1")]
    assert moved.content["project"]["data"]["e"][PID] is None
    assert record.content["project"]["data"]["a.csv"][PID] == ABC
    assert record.same_release(moved)
    assert moved.same_release(record)


def test_a_digest_that_only_the_pid_told_stays_when_the_archive_gives_another_pid() -> None:
    digest = hashlib.sha256(b"abc").hexdigest()
    record = ReleaseRecord(a_record({"a.csv": {ITEM: FILE, BYTES: 3, PID: digest}}))
    moved = ReleaseRecord(copy.deepcopy(record.content))
    moved.set_pids({digest: "https://archive.example/pid/1"})
    assert ReleaseRecord(moved.content).blobs == [Blob(digest, 3, ("a.csv",), "https://archive.example/pid/1")]
    assert moved.same_release(record)


def test_a_pid_that_is_the_digest_tells_it_once() -> None:
    digest = hashlib.sha256(b"abc").hexdigest()
    record = ReleaseRecord(a_record({"a.csv": {ITEM: FILE, BYTES: 3, PID: digest}}))
    record.set_pids({digest: digest})
    assert record.content["project"] == {"a.csv": {ITEM: FILE, BYTES: 3, PID: digest}}


@pytest.mark.parametrize(
    "other",
    [
        a_record({"a.csv": file("a.csv", b"xyz")}),
        a_record({"b.csv": file("b.csv")}),
        a_record({}),
        a_record(workflow={"description": "other"}),
        a_record(datasets={"a": "a.csv"}),
        a_record(title="waveguide-calibration-v0.1.1", version="0.1.1"),
    ],
)
def test_any_other_difference_is_another_release(other: dict[str, Any]) -> None:
    assert not ReleaseRecord(a_record()).same_release(ReleaseRecord(other))


@pytest.mark.parametrize("depth", [100, 400, 900])
def test_deeply_nested_fields_are_compared_or_refused_but_never_crash(depth: int) -> None:
    nested = b'{"a": ' * depth + b"1" + b"}" * depth
    data = json.dumps(a_record(workflow=0)).encode().replace(b'"workflow": 0', b'"workflow": ' + nested)
    try:
        same = ReleaseRecord.parse(data, "here").same_release(ReleaseRecord.parse(data, "there"))
    except RecordError:
        same = depth > 100
    assert same


# Hostile records


def refused(content: Any) -> str:
    """Return the sentence with which a record is refused, given as a mapping and, where it can be, as its bytes."""
    with pytest.raises(RecordError) as caught:
        ReleaseRecord(content, "evil\n.yml")
    assert is_one_sentence(caught.value)
    assert r"evil\n.yml: " in str(caught.value)
    try:
        data = json.dumps(content).encode()
    except TypeError:
        data = None
    if data is not None:
        with pytest.raises(RecordError):
            ReleaseRecord.parse(data, "evil\n.yml")
    return str(caught.value)


OUTSIDE = [
    *(
        "/etc/passwd",
        "/",
        "..",
        ".",
        "",
        "../a",
        "a/../../b",
        "a/b",
        "./a",
        "a/",
        "/a",
        "..\\a",
        "\\a",
        "C:\\a",
        "a\\b",
    ),
    *("\\\\server\\share", "a\0b", "\0", "\ud800", "a\udcff"),
]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("item", [FILE, FOLDER, HDF5_FILE])
def test_no_name_can_leave_the_release(name: str, item: str) -> None:
    node = {ITEM: item, BYTES: 3, SHA1: ABC}
    refused(a_record({name: node}))
    refused(a_record({"data": folder("data", {"deeper": folder("data/deeper", {name: node})})}))


def test_a_name_is_refused_with_the_folder_that_it_stands_in() -> None:
    node = {ITEM: FILE, BYTES: 3, SHA1: ABC}
    assert "in the project is not allowed" in refused(a_record({"..": node}))
    assert "in data/ is not allowed" in refused(a_record({"data": folder("data", {"..": node})}))


@pytest.mark.parametrize("name", ["/etc/", "//", "/../", "/a/b/", "/sha1/", "/\0/"])
def test_a_name_between_slashes_is_a_property_and_never_a_file(name: str) -> None:
    record = ReleaseRecord(a_record({name: file("etc"), "a": file("a")}))
    assert [blob.paths for blob in record.blobs] == [("a",)]
    assert record.folders == record.empty_files == []


@pytest.mark.parametrize("name", [1, 1.5, True, None, ("a",), b"a"])
def test_a_name_that_is_no_text_is_refused(name: Any) -> None:
    with pytest.raises(RecordError) as caught:
        ReleaseRecord(a_record({name: file("a")}))
    assert is_one_sentence(caught.value)


def test_a_name_that_yaml_takes_for_something_else_is_refused() -> None:
    others = "".join(f"{key}: {json.dumps(value)}\n" for key, value in a_record().items() if key != "project")
    assert ReleaseRecord.parse(
        f"{others}project:\n  'yes': {{/item/: File, /bytes/: 0}}\n".encode(), "here"
    ).empty_files
    for name in ("1", "null", "yes", "2024-01-01", "? [1]\n  "):
        with pytest.raises(RecordError):
            ReleaseRecord.parse(f"{others}project:\n  {name}: {{/item/: File, /bytes/: 0}}\n".encode(), "here")


@pytest.mark.parametrize(
    "path", ["b.csv", "/a.csv", "../a.csv", "./a.csv", "", "data/a.csv", "a.csv/", "A.csv", None, 5, []]
)
def test_a_path_that_contradicts_the_nesting_is_refused(path: Any) -> None:
    assert "'a.csv' has the wrong /path/" in refused(a_record({"a.csv": file("a.csv") | {PATH: path}}))


def test_a_path_of_a_nested_file_counts_from_the_project() -> None:
    refused(a_record({"data": folder("data", {"a.csv": file("a.csv")})}))
    assert ReleaseRecord(a_record({"data": folder("data", {"a.csv": file("data/a.csv")})})).nbytes == 3


def test_a_path_may_be_left_out() -> None:
    node = file("a.csv")
    del node[PATH]
    assert ReleaseRecord(a_record({"a.csv": node})).blobs[0].paths == ("a.csv",)


@pytest.mark.parametrize(
    "size", [-1, -(2**70), 2**63, 10**400, True, False, 1.0, 0.0, "3", "", None, [3], {}, float("nan"), float("inf")]
)
def test_a_size_that_is_no_size_is_refused(size: Any) -> None:
    assert "'a.csv' has no valid /bytes/" in refused(a_record({"a.csv": file("a.csv") | {BYTES: size}}))


def test_a_size_may_be_as_large_as_any_file() -> None:
    assert ReleaseRecord(a_record({"a.csv": file("a.csv") | {BYTES: 2**63 - 1}})).nbytes == 2**63 - 1


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
@pytest.mark.parametrize("key", [SHA1, PID])
def test_an_empty_file_has_the_digest_of_nothing_or_none(algorithm: str, key: str) -> None:
    node = {ITEM: FILE, BYTES: 0}
    empty = node | {key: hashlib.new(algorithm).hexdigest()}
    assert ReleaseRecord(a_record({"none": node, "empty": empty})).empty_files == ["empty", "none"]
    other = node | {key: hashlib.new(algorithm, b"abc").hexdigest()}
    assert "'other' has /bytes/ 0 and the digest of something" in refused(a_record({"other": other}))
    assert ReleaseRecord(a_record({"one": node | {key: other[key], BYTES: 1}})).nbytes == 1


@pytest.mark.parametrize("digest", ["", ABC[:-1], ABC.upper(), ABC + "\n", "../" * 13 + "a", 5, True, [ABC], {ABC: 1}])
def test_a_digest_that_is_no_digest_is_refused(digest: Any) -> None:
    refused(a_record({"a.csv": file("a.csv") | {SHA1: digest}}))
    node = file("a.csv") | {PID: digest}
    del node[SHA1]
    refused(a_record({"a.csv": node}))


@pytest.mark.parametrize("pid", [5, 1.5, True, ["a"], {"a": 1}])
def test_a_pid_is_text_or_nothing(pid: Any) -> None:
    refused(a_record({"a.csv": file("a.csv") | {PID: pid}}))


def test_two_sizes_for_one_digest_are_refused() -> None:
    assert ABC in refused(a_record({"a": file("a"), "b": file("b") | {BYTES: 4}}))


@pytest.mark.parametrize("item", ["Link", "directory", "", None, 5, True, ["File"], {"File": 1}, "File\n"])
def test_an_unknown_kind_of_node_is_refused(item: Any) -> None:
    refused(a_record({"a.csv": file("a.csv") | {ITEM: item}}))


@pytest.mark.parametrize("node", [None, 5, True, "File", ["File"], {}, {BYTES: 3, SHA1: ABC}])
def test_a_node_that_is_no_mapping_or_has_no_kind_is_refused(node: Any) -> None:
    refused(a_record({"a.csv": node}))
    refused(a_record({"data": folder("data", {"a.csv": node})}))


@pytest.mark.parametrize("content", [None, 5, True, "text", [], [a_record()], {}, {"project": {}}, {"title": "a"}])
def test_what_is_no_record_is_refused(content: Any) -> None:
    refused(content)


@pytest.mark.parametrize("field", ["title", "title_versionless", "version", "project"])
@pytest.mark.parametrize("value", [None, 5, 0.1, True, [], ["a"], "", " ", "\ud800", "x" * 70_000])
def test_a_wrong_or_missing_field_is_refused(field: str, value: Any) -> None:
    refused(a_record(**{field: value}))
    content = a_record()
    del content[field]
    refused(content)


@pytest.mark.parametrize("title", ["../../tmp/x", "/etc", "..", "a\\b", "a\0", "a\nb", ".hidden", "x" * 300])
def test_a_title_cannot_escape_the_archive(title: str) -> None:
    refused(a_record(title_versionless=title, title=f"{title}-v0.1.0"))


@pytest.mark.parametrize("version", ["../0.1.0", "0.1.0/..", "0.1", "latest", "0.1.0\0", "0.1.0\n", "\u0660.1.0"])
def test_a_version_cannot_be_anything_else(version: str) -> None:
    refused(a_record(version=version, title=f"waveguide-calibration-v{version}"))


@pytest.mark.parametrize("title", ["waveguide-calibration", "waveguide-calibration-v0.1.1", "other-v0.1.0"])
def test_a_title_that_does_not_belong_to_the_version_is_refused(title: str) -> None:
    assert "'title' is not '<title_versionless>-v<version>'" in refused(a_record(title=title))


@pytest.mark.parametrize("depth", [2_047, 2_049, 20_000])
def test_folders_nested_beyond_any_real_path_are_refused(depth: int) -> None:
    node: dict[str, Any] = {ITEM: FOLDER}
    for _ in range(depth - 1):
        node = {ITEM: FOLDER, "a": node}
    if depth < 2_048:
        assert len(ReleaseRecord(a_record({"a": node})).folders) == depth
    else:
        with pytest.raises(RecordError, match="a path that is too long") as caught:
            ReleaseRecord(a_record({"a": node}))
        assert is_one_sentence(caught.value)
    while "a" in node:
        node = node.pop("a")


def test_a_path_may_have_4096_bytes() -> None:
    assert ReleaseRecord(a_record({"x" * 4096: {ITEM: FOLDER}})).folders == ["x" * 4096]
    for path in ("x" * 4097, "ü" * 2049):
        with pytest.raises(RecordError, match="a path that is too long"):
            ReleaseRecord(a_record({path: {ITEM: FOLDER}}))


HOSTILE_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(OUTSIDE),
    lambda value: (
        st.lists(value, max_size=3)
        | st.dictionaries(st.sampled_from([*OUTSIDE, ITEM, BYTES, SHA1, PATH, PID, "a"]), value, max_size=4)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(KEYS), HOSTILE_VALUES)
def test_any_value_in_any_field_is_accepted_or_refused_with_one_sentence(field: str, value: Any) -> None:
    check_whole(a_record(**{field: value}))


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", *OUTSIDE]),
        st.fixed_dictionaries(
            {ITEM: st.sampled_from([FILE, FOLDER, HDF5_FILE]), BYTES: st.integers(0, 9) | HOSTILE_VALUES},
            optional={SHA1: st.just(ABC) | HOSTILE_VALUES, "a": HOSTILE_VALUES, PATH: HOSTILE_VALUES},
        ),
        min_size=1,
        max_size=3,
    )
)
def test_any_project_is_accepted_or_refused_with_one_sentence(project: dict[str, Any]) -> None:
    check_whole(a_record(project))


def check_whole(content: Any) -> None:
    """Read a mapping as a record; every path of an accepted one must stay inside."""
    try:
        record = ReleaseRecord(content)
    except RecordError as error:
        sentence = error
    else:
        paths = [*record.folders, *record.empty_files, *(path for blob in record.blobs for path in blob.paths)]
        for path in paths:
            assert os.path.normpath(f"/release/{path}") == f"/release/{path}"
            assert "\\" not in path
            assert "\0" not in path
        assert all(0 < blob.size < 2**63 for blob in record.blobs)
        return
    assert is_one_sentence(sentence)


# Hostile bytes


@settings(deadline=None, max_examples=200)
@given(
    st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.text("&*!|>{}[]:,-? \n'\"a1~#%@<=", max_size=40).map(str.encode)
)
@example(b"")
@example(b"\xff\xfe")
@example(b"\0")
@example(b"{")
@example(b"--- a\n--- b\n")
@example(b"\t- a")
@example(b"!!python/object/apply:os.system ['true']")
@example(b"!!python/name:os.system")
@example(b"? [1]\n: 2")
@example(b"&a {? *a : 1}")
@example(b"2001-99-99")
@example(b"9" * 5000)
def test_any_other_bytes_are_refused_with_one_sentence(data: bytes) -> None:
    with pytest.raises(RecordError) as caught:
        ReleaseRecord.parse(data, "evil\n.yml")
    assert is_one_sentence(caught.value)
    assert r"evil\n.yml: " in str(caught.value)


@pytest.mark.parametrize(
    "tag",
    ["!!bool foo", "!!bool ''", "!!int ''", "!!int _", "!!float ''", "!!timestamp foo", "!!binary 'ä'", "!!set x"],
)
def test_a_yaml_tag_on_a_wrong_value_is_refused_with_one_sentence(tag: str) -> None:
    with pytest.raises(RecordError) as caught:
        load_mapping(f"workflow: {tag}\n".encode(), "evil.yml")
    assert is_one_sentence(caught.value)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_record_damaged_at_any_place_is_refused_or_still_safe(data: st.DataObject) -> None:
    stored = bytearray(ReleaseRecord(a_record({"data": folder("data", {"a.csv": file("data/a.csv")})})).dump())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(stored) - 1))
        stored[place : place + data.draw(st.integers(1, 3))] = data.draw(st.binary(max_size=3))
    try:
        content = load_mapping(bytes(stored), "here")
    except RecordError as error:
        message = error
    else:
        check_whole(content)
        return
    assert is_one_sentence(message)


def test_a_record_cut_short_anywhere_is_refused() -> None:
    data = ReleaseRecord(a_record(requirements=["a"], datasets={"a": "a.csv"})).dump()
    for end in range(0, len(data) - 2, 7):
        with pytest.raises(RecordError):
            ReleaseRecord.parse(data[:end], "here")


def test_a_record_larger_than_any_real_one_is_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = ReleaseRecord(a_record()).dump()
    monkeypatch.setattr(pipeline.documents, "MAX_DOCUMENT_BYTES", len(data))
    assert ReleaseRecord.parse(data, "here").version == "0.1.0"
    monkeypatch.setattr(pipeline.documents, "MAX_DOCUMENT_BYTES", len(data) - 1)
    with pytest.raises(RecordError, match="larger than") as caught:
        ReleaseRecord.parse(data, "here")
    assert is_one_sentence(caught.value)


def test_a_folder_that_is_an_alias_of_another_is_refused() -> None:
    shared = {ITEM: FOLDER, "a": {ITEM: FILE, BYTES: 0}}
    assert "is an alias of another folder" in refused_quickly(a_record({"one": shared, "two": shared}))
    loop: dict[str, Any] = {ITEM: FOLDER}
    loop["again"] = loop
    assert "is an alias of another folder" in refused_quickly(a_record({"one": loop}))
    bomb: dict[str, Any] = {ITEM: FOLDER}
    for _ in range(60):
        bomb = {ITEM: FOLDER, "a": bomb, "b": bomb}
    assert "is an alias of another folder" in refused_quickly(a_record(bomb))


def refused_quickly(content: Any) -> str:
    started = time.monotonic()
    with pytest.raises(RecordError) as caught:
        ReleaseRecord(content)
    assert time.monotonic() - started < 2
    assert is_one_sentence(caught.value)
    return str(caught.value)


# What might crash or stop the interpreter is read in another process, with a limit of time and of memory.

READ_ELSEWHERE = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except ImportError:
    pass
from pipeline.errors import RecordError
from pipeline.release import ReleaseRecord
try:
    record = ReleaseRecord.parse(sys.stdin.buffer.read(), "evil.yml")
    record.same_release(ReleaseRecord(record.content))
    record.dump()
except RecordError as error:
    print(ascii(str(error)))
"""

FIELDS = "".join(f"{key}: {json.dumps(value)}\n" for key, value in a_record({}).items() if key != "workflow")


def levels(first: str, level: Callable[[str], str], count: int) -> str:
    """Return a YAML mapping of `count` entries, each of which refers nine times to the one before."""
    lines = [f"  a0: &a0 {first}"]
    for number in range(1, count):
        lines.append(f"  a{number}: &a{number} " + level(", ".join([f"*a{number - 1}"] * 9)))
    return "\n".join(lines)


@pytest.mark.parametrize(
    "workflow",
    [
        pytest.param("[" * 1_000_000, id="open brackets"),
        pytest.param("[" * 100_000 + "]" * 100_000, id="nested lists"),
        pytest.param("{a: " * 100_000 + "1" + "}" * 100_000, id="nested mappings"),
        pytest.param("\n  " + "- " * 100_000 + "a", id="nested blocks"),
        pytest.param("\n" + levels("[x]", "[{}]".format, 12), id="aliases of lists"),
        pytest.param("\n" + levels("{k: v}", "{{<<: [{}]}}".format, 10), id="merged mappings"),
        pytest.param("\n  &a [*a]", id="an alias of itself"),
        pytest.param("\n  &a {b: *a}", id="a mapping that contains itself"),
        pytest.param("1" + ":1" * 300_000, id="a number to the base of sixty"),
    ],
)
def test_a_record_made_to_crash_or_to_stop_the_reader_does_neither(workflow: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", READ_ELSEWHERE],
        input=f"{FIELDS}workflow: {workflow}\n".encode(),
        capture_output=True,
        timeout=10,
        check=False,
        cwd=Path(pipeline.release.__file__).parents[1],
    )
    assert result.returncode == 0, result.stderr.decode()[-300:]
    assert result.stdout.startswith((b"'evil.yml: ", b"'The record cannot be written")) or not result.stdout


@pytest.mark.parametrize("level", ["[{}]", "{{a: [{}]}}"])
def test_a_small_document_does_not_become_a_large_record(level: str) -> None:
    data = f"{FIELDS}workflow:\n{levels('[x]', level.format, 7)}\n".encode()
    try:
        written = ReleaseRecord.parse(data, "evil.yml").dump()
    except RecordError:
        written = b""
    assert len(written) < 100 * len(data)


def test_a_large_honest_record_is_read_in_a_moment() -> None:
    project = {
        f"run{i}": folder(f"run{i}", {f"{j}.csv": file(f"run{i}/{j}.csv", f"{i} {j}".encode()) for j in range(100)})
        for i in range(100)
    }
    data = ReleaseRecord(a_record(project)).dump()
    started = time.monotonic()
    assert len(ReleaseRecord.parse(data, "here").blobs) == 10_000
    assert time.monotonic() - started < 5


def test_what_is_nested_too_deeply_to_be_compared_is_refused() -> None:
    nested: dict[str, Any] = {}
    for _ in range(100_000):
        nested = {"a": nested}
    with pytest.raises(RecordError, match="the record is nested too deeply"):
        ReleaseRecord(a_record(workflow=nested)).same_release(ReleaseRecord(a_record()))
    with pytest.raises(RecordError, match="it is nested too deeply"):
        is_sealed({"workflow": nested, SEAL: "0" * 40})


def test_an_alias_of_a_value_is_followed() -> None:
    assert load_mapping(b"a: &x 0.5\nb: *x\n", "it") == {"a": 0.5, "b": 0.5}
