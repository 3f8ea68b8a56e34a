"""Which versions fit together: compared with trying every choice. Lock files that nobody vouches for."""

import contextlib
import itertools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import LockFileError, PipelineError, RequirementsError
from pipeline.lock_file import LockedRelease, LockFile, read_lock_file
from pipeline.requirements import MOST_RELEASES, Requirement, parse_requirements, resolve
from pipeline.versions import matches

Graph = Mapping[str, Mapping[str, Mapping[str, str]]]


def chosen(graph: Graph, version: str = "1.0.0", title: str = "a") -> dict[str, str]:
    """Resolve a graph: title to version to what it requires, title to expressions."""

    def requirements_of(name: str, of_version: str) -> list[Requirement]:
        wanted = graph[name][of_version]
        return [Requirement(other, tuple(filter(None, text.split(",")))) for other, text in wanted.items()]

    return resolve(title, version, lambda name: list(graph.get(name, ())), requirements_of)


def refusal(graph: Graph, version: str = "1.0.0") -> str:
    with pytest.raises(RequirementsError) as caught:
        chosen(graph, version)
    return str(caught.value)


# --- what a record requires -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "requirement"),
    [
        ("cable-models", "cable-models"),
        ("cable-models>=0.2.0", "cable-models>=0.2.0"),
        (" Cable_Models >= 0.2.0, < 0.3.0 ", "cable-models>=0.2.0,<0.3.0"),
        ("a==1.0.0-rc.1+build.5", "a==1.0.0-rc.1+build.5"),
        ("a!=1.0.0", "a!=1.0.0"),
        ("Lab/a<=1.0.0", "a<=1.0.0"),
    ],
)
def test_a_requirement_is_a_title_with_expressions(text: str, requirement: str) -> None:
    assert [str(found) for found in parse_requirements({"requirements": [text]}, "Lab")] == [requirement]


def test_a_title_that_is_required_twice_must_satisfy_both() -> None:
    (found,) = parse_requirements({"requirements": ["a>=1.0.0", "A<2.0.0"]}, "Lab")
    assert found == Requirement("a", (">=1.0.0", "<2.0.0"))


@pytest.mark.parametrize("content", [{}, {"requirements": None}, {"requirements": []}])
def test_a_record_may_require_nothing(content: dict[str, Any]) -> None:
    assert parse_requirements(content, "Lab") == ()


@pytest.mark.parametrize(
    "listed",
    [
        "a>=1.0.0",
        {"a": ">=1.0.0"},
        7,
        [None],
        [1.0],
        [["a"]],
        [""],
        [" "],
        [">=1.0.0"],
        ["../a>=1.0.0"],
        ["a>=1"],
        ["a>=1.0.0 <2.0.0"],
        ["a~=1.0.0"],
        ["a=>1.0.0"],
        ["a\nb"],
        ["a\x1b[31m>=1.0.0"],
        ["SELF"],
        ["Elsewhere/a>=1.0.0"],
        ["/a"],
        ["\ud800"],
        ["a" * 10**6 + "!"],
        ["a>=" + "1" * 5000 + ".0.0"],
        ["a"] * 501,
    ],
    ids=lambda listed: ascii(listed)[:30],
)
def test_what_is_no_requirement_is_refused_in_one_sentence(listed: Any) -> None:
    with pytest.raises(RequirementsError) as caught:
        parse_requirements({"title": "b-v1.0.0", "requirements": listed}, "Lab")
    sentence = str(caught.value)
    assert "the record of b-v1.0.0" in sentence
    assert sentence.isprintable()
    assert len(sentence) < 600


@given(st.text(st.sampled_from("aZ9-_. />=<!,1.0+\n\x85\u2028é"), max_size=20))
def test_whatever_a_record_requires_it_is_understood_or_refused(text: str) -> None:
    with contextlib.suppress(RequirementsError):
        for requirement in parse_requirements({"title": "b-v1.0.0", "requirements": [text]}, "Lab"):
            assert str(requirement).isprintable()
            matches("1.0.0", requirement.expressions)


# --- the choice -------------------------------------------------------------------------------------------------------


def test_the_newest_versions_are_chosen_through_all_that_is_required() -> None:
    graph = {
        "a": {"1.0.0": {"b": ">=0.1.0", "c": ""}},
        "b": {"0.1.0": {}, "0.10.0": {"c": "<2.0.0"}, "0.9.0": {}},
        "c": {"1.0.0": {}, "1.5.0-rc.1": {}, "2.0.0": {}},
    }
    assert chosen(graph) == {"a": "1.0.0", "b": "0.10.0", "c": "1.5.0-rc.1"}


def test_an_older_version_is_taken_where_the_newest_leaves_another_release_without_one() -> None:
    graph = {
        "a": {"1.0.0": {"b": "", "c": ">=2.0.0"}},
        "b": {"0.1.0": {"c": ">=1.0.0"}, "0.2.0": {"c": "<2.0.0"}, "0.3.0": {"d": ""}},
        "c": {"1.0.0": {}, "2.0.0": {}},
    }
    assert chosen(graph) == {"a": "1.0.0", "b": "0.1.0", "c": "2.0.0"}


def test_versions_that_differ_in_build_metadata_only_are_told_apart() -> None:
    graph = {"a": {"1.0.0": {"b": "==0.1.0"}}, "b": {"0.1.0": {}, "0.1.0+build.2": {}, "0.1.0+build.1": {}}}
    assert chosen(graph)["b"] == "0.1.0+build.2"


def test_a_conflict_names_who_requires_what() -> None:
    graph = {
        "a": {"1.0.0": {"b": "", "c": ">=2.0.0"}},
        "b": {"0.2.0": {"d": ""}},
        "c": {"1.0.0": {}, "2.0.0": {}},
        "d": {"3.0.0": {"c": "<2.0.0"}},
    }
    assert refusal(graph) == (
        "The requirements of a-v1.0.0 cannot all be met: a-v1.0.0 requires c>=2.0.0; a-v1.0.0 -> b-v0.2.0 -> d-v3.0.0 "
        "requires c<2.0.0; versions of c: 2.0.0, 1.0.0."
    )


def test_a_release_that_does_not_exist_is_named_with_the_chain_that_requires_it() -> None:
    graph = {"a": {"1.0.0": {"b": ""}}, "b": {"0.2.0": {"c": ">=1.0.0"}}}
    expected = "There is no release c in the archive, and a-v1.0.0 -> b-v0.2.0 requires it (c>=1.0.0)."
    assert refusal(graph) == expected


def test_another_version_of_the_release_that_was_asked_for_is_a_conflict() -> None:
    graph = {"a": {"1.0.0": {"b": ""}, "2.0.0": {}}, "b": {"0.2.0": {"a": ">=2.0.0"}}}
    assert "a-v1.0.0 was asked for; a-v1.0.0 -> b-v0.2.0 requires a>=2.0.0" in refusal(graph)


@pytest.mark.parametrize(
    ("graph", "chain"),
    [
        ({"a": {"1.0.0": {"a": ""}}}, "a-v1.0.0 -> a;"),
        ({"a": {"1.0.0": {"b": ""}}, "b": {"0.2.0": {"a": ">=1.0.0"}}}, "a-v1.0.0 -> b-v0.2.0 -> a;"),
        (
            {
                "a": {"1.0.0": {"d": "", "b": ""}},
                "b": {"0.2.0": {"c": ""}},
                "c": {"3.0.0": {"b": ""}},
                "d": {"1.0.0": {}},
            },
            "a-v1.0.0 -> b-v0.2.0 -> c-v3.0.0 -> b;",
        ),
    ],
)
def test_a_circle_names_its_chain(graph: Graph, chain: str) -> None:
    assert f"in a circle: {chain}" in refusal(graph)


def test_a_release_that_two_others_require_is_no_circle() -> None:
    graph = {"a": {"1.0.0": {"b": "", "c": ""}}, "b": {"1.0.0": {"c": ""}}, "c": {"1.0.0": {}}}
    assert list(chosen(graph)) == ["a", "b", "c"]


def test_what_has_nothing_to_do_with_a_conflict_is_not_tried_again_and_again() -> None:
    versions = [f"{n}.0.0" for n in range(1, 21)]
    between = {f"m{n}": {version: {} for version in versions} for n in range(30)}
    graph = {
        "a": {"1.0.0": {"first": "", **dict.fromkeys(between, ""), "last": ""}},
        "first": {version: {} for version in versions},
        **between,
        "last": {"1.0.0": {"first": "<2.0.0"}},
    }
    choice = chosen(graph)
    assert choice["first"] == "1.0.0"
    assert {choice[name] for name in between} == {"20.0.0"}


def test_the_search_is_given_up_where_it_would_take_for_ever() -> None:
    # Nine releases want different versions of eight others: only trying them all would show that it cannot be.
    holes = [f"hole{n}" for n in range(8)]
    graph: dict[str, dict[str, dict[str, str]]] = {
        "a": {"1.0.0": {f"pigeon{n}": "" for n in range(9)}},
        **{f"pigeon{n}": {f"{k + 1}.0.0": {hole: f"=={n}.0.0"} for k, hole in enumerate(holes)} for n in range(9)},
        **{hole: {f"{n}.0.0": {} for n in range(9)} for hole in holes},
    }
    assert "in 10000 attempts" in refusal(graph)


def test_no_chain_is_too_long_for_the_stack() -> None:
    graph = {f"r{n}": {"1.0.0": {f"r{n + 1}": ""}} for n in range(MOST_RELEASES - 1)}
    graph[f"r{MOST_RELEASES - 1}"] = {"1.0.0": {}}
    assert len(chosen(graph, title="r0")) == MOST_RELEASES
    graph[f"r{MOST_RELEASES - 1}"] = {"1.0.0": {"one-more": ""}}
    with pytest.raises(RequirementsError, match=f"more than {MOST_RELEASES} releases"):
        chosen(graph, title="r0")


TITLES = ["a", "b", "c", "d"]
VERSIONS = ["1.0.0", "2.0.0-rc.1", "2.0.0"]
EXPRESSIONS = ["", *(sign + version for sign in ("==", "!=", ">=", "<") for version in VERSIONS)]
graphs = st.fixed_dictionaries(
    {
        title: st.dictionaries(
            st.sampled_from(VERSIONS),
            st.dictionaries(st.sampled_from(TITLES), st.sampled_from(EXPRESSIONS), max_size=3),
            min_size=title == "a",
        )
        for title in TITLES
    }
)


def decisions(graph: Graph, root: str, choice: Mapping[str, str]) -> list[tuple[str, int]] | None:
    """Return a choice in the order in which releases are named, with how new each is; None where it is not possible."""
    order, seen = [], ["a"]
    for title in seen:
        if title not in choice:
            return None
        for other, text in graph[title][choice[title]].items():
            if other in choice and text and not matches(choice[other], [text]):
                return None
            if other not in seen:
                seen.append(other)
        order.append((title, VERSIONS.index(choice[title])))
    return order if set(seen) == set(choice) and choice["a"] == root else None


@given(graphs, st.data())
def test_the_choice_is_the_one_that_trying_all_would_find(graph: Graph, data: st.DataObject) -> None:
    root = data.draw(st.sampled_from(sorted(graph["a"])))
    every = itertools.product(*([None, *graph[title]] for title in TITLES))
    choices = ({title: v for title, v in zip(TITLES, versions, strict=True) if v} for versions in every)
    possible = [order for choice in choices if choice and (order := decisions(graph, root, choice)) is not None]
    found, problem = outcome(graph, root)
    # Two possible choices agree up to the first release of which one has a newer version.
    if found:
        assert [(title, VERSIONS.index(version)) for title, version in found.items()] == max(possible)
    elif "circle" in problem:
        assert possible
    else:
        assert not possible, problem
        assert "cannot all be met" in problem or "There is no release" in problem


def outcome(graph: Graph, version: str) -> tuple[dict[str, str], str]:
    try:
        return chosen(graph, version), ""
    except RequirementsError as error:
        return {}, str(error)


# --- the lock file ----------------------------------------------------------------------------------------------------

LOCK = LockFile(
    "a",
    ">=1.0.0,<2.0.0",
    "/srv/Größe: archive # 1",
    "Global Public Workspace",
    {
        "a": LockedRelease("1.0.0", "1" * 40, ("b>=0.1.0", "null"), ()),
        "b": LockedRelease("0.2.0-rc.1+build.5", "12345e" + "0" * 34, (), ("a-v1.0.0",)),
    },
)


def test_a_lock_file_says_what_was_written_and_a_person_can_read_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.lock"
    assert read_lock_file(file) is None
    LOCK.write(file)
    assert read_lock_file(file) == LOCK
    assert [path.name for path in file.parent.iterdir()] == ["a.lock"]
    lines = file.read_text(encoding="utf-8").splitlines()
    assert "--update chooses anew" in lines[0]
    assert lines[1:5] == [
        "title: a",
        "versions: '>=1.0.0,<2.0.0'",
        "archive: '/srv/Größe: archive # 1'",
        "workspace: Global Public Workspace",
    ]
    assert lines[6:12] == [
        "  a:",
        "    version: 1.0.0",
        f"    record: sha1:{'1' * 40}",
        "    requires:",
        "    - b>=0.1.0",
        "    - 'null'",
    ]


texts = st.text(st.characters(codec="utf-8").filter(str.isprintable), max_size=20)


@given(texts, texts, texts, st.lists(texts, max_size=3))
def test_any_texts_come_back(versions: str, archive: str, workspace: str, requires: list[str]) -> None:
    lock = LockFile("a", versions, archive, workspace, {"a": LockedRelease("1.0.0", "0" * 40, tuple(requires))})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a.lock")
        file.write_bytes(lock.dump())
        assert read_lock_file(file) == lock


GOOD = LOCK.dump().decode()
HOSTILE = {
    "empty": "",
    "text": "version: 1",
    "list": "[]",
    "cut-off": GOOD[: len(GOOD) // 2],
    "binary": "\0\x01",
    "python-tag": "title: !!python/object/apply:os.system ['touch pwned']",
    "recursive": "&x {a: *x}",
    "bomb": "x: [" + ",".join(["&a [1]", *["*a"] * 9]) + "]",
    "other-title-inside": GOOD.replace("title: a", "title: z"),
    "title-is-a-number": GOOD.replace("title: a", "title: 1"),
    "no-archive": GOOD.replace("archive:", "arch:"),
    "no-releases": GOOD[: GOOD.index("releases:")] + "releases: {}",
    "releases-is-a-list": GOOD[: GOOD.index("releases:")] + "releases: [a]",
    "release-is-text": GOOD[: GOOD.index("releases:")] + "releases: {a: 1.0.0}",
    "title-leaves-the-folder": GOOD.replace("  b:", "  ../../b:"),
    "title-in-other-spelling": GOOD.replace("  b:", "  B:"),
    "title-is-no-text": GOOD.replace("  b:", "  3:"),
    "version-is-a-number": GOOD.replace("version: 1.0.0", "version: 1.0"),
    "version-leaves-the-folder": GOOD.replace("version: 1.0.0", "version: 1.0.0/../../x"),
    "digest-is-short": GOOD.replace("1" * 40, "1" * 39),
    "digest-is-sha256": GOOD.replace("sha1:", "sha256:"),
    "digest-in-other-digits": GOOD.replace("1" * 40, "١" * 40),
    "requires-is-text": GOOD.replace("requires: []", "requires: none"),
    "required-by-has-a-number": GOOD.replace("- a-v1.0.0", "- 1"),
    "too-many": GOOD + "".join(f"  x{n}: {{version: 1.0.0}}\n" for n in range(MOST_RELEASES)),
    "control-characters": 'title: "\\e[31m"',
    "surrogate": 'title: "\\ud800"',
    "too-large": "#" * (2**24 + 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_lock_file_is_one_sentence_that_names_it(tmp_path: Path, name: str) -> None:
    file = tmp_path / "a.lock"
    file.write_bytes(HOSTILE[name].encode("utf-8", "surrogatepass"))
    with pytest.raises(LockFileError) as caught:
        read_lock_file(file)
    sentence = str(caught.value)
    assert sentence.startswith(f"The lock file {file} cannot be used: ")
    assert sentence.endswith("; restore it, or choose anew with --update.")
    assert sentence.count(str(file)) == 1
    assert sentence.isprintable()
    assert len(sentence) < 600


def test_a_folder_in_the_place_of_a_lock_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.lock").mkdir()
    with pytest.raises((PipelineError, OSError)):
        read_lock_file(tmp_path / "a.lock")


@given(st.integers(0, len(GOOD) - 1), st.sampled_from(["", "\n", " ", ":", "'", "[", "-", "0", "\x00", "é"]))
def test_a_lock_file_that_was_edited_in_one_place_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, text: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "edited.lock"
    file.write_text(GOOD[:place] + text + GOOD[place + 1 :], encoding="utf-8")
    with contextlib.suppress(LockFileError):
        lock = read_lock_file(file)
        assert lock is not None
        assert all("/" not in title + one.version for title, one in lock.releases.items())
