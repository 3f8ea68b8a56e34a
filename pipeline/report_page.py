"""The page of a run report: one HTML file that needs nothing else, made from what the JSON says."""

import html
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any, NamedTuple
from urllib.parse import quote

from .errors import printable
from .progress import format_bytes

_PAGE = Template(files(__package__).joinpath("report_page.html").read_text(encoding="utf-8"))
_ROWS_OPEN = 30
_MOST_ROWS = 2000
_MOST_FAILED = 50
_PATHS_OPEN = 5
_LONGEST_TEXT = 400

# What a task did, and where, in terms of its parameters.
_SENTENCES = {
    "PublishRelease": ("Published", "to {archive}"),
    "FetchRelease": ("Fetched", "from {archive} to {destination}"),
    "MirrorRelease": ("Mirrored", "from {source} to {destination}"),
    "MirrorArchive": ("Mirrored", "from {source} to {destination}"),
    "AuditArchive": ("Checked", "in {archive}"),
}
# Class of the colour, what it means, and how many blobs of the totals it is.
_Share = tuple[str, str, Callable[[Mapping[str, int]], int]]
_MOVED_SHARES: tuple[_Share, ...] = (
    ("good", "moved", lambda n: n["moved_blobs"]),
    ("calm", "already there", lambda n: n["there_blobs"]),
    ("bad", "failed", lambda n: n["failed_blobs"]),
    ("rest", "not moved by this run", lambda n: n["blobs"] - n["moved_blobs"] - n["there_blobs"] - n["failed_blobs"]),
)
_CHECKED_SHARES: tuple[_Share, ...] = (
    ("good", "intact", lambda n: n["checked_blobs"] - n["damaged_blobs"]),
    ("calm", "repaired", lambda n: n["repaired_blobs"]),
    ("bad", "damaged or missing", lambda n: n["failed_blobs"]),
    ("rest", "not checked this time", lambda n: n["blobs"] - n["checked_blobs"] - n["missing_blobs"]),
)
_COLUMNS = {
    "blobs": "Blobs",
    "moved_blobs": "Moved",
    "there_blobs": "Already there",
    "checked_blobs": "Checked",
    "damaged_blobs": "Damaged",
    "missing_blobs": "Missing",
    "repaired_blobs": "Repaired",
    "damaged_records": "Damaged records",
    "unnamed_blobs": "In no record",
    "failed_blobs": "Failed",
}


class Night(NamedTuple):
    """One bar of the history.

    Attributes
    ----------
    page : str
        File name of its page, in the same folder.
    night, state : str
        As in the JSON.
    nbytes : int
        The bytes that were moved or checked.
    releases, failed : int
        How many releases there were, and how many of them failed.
    """

    page: str
    night: str
    state: str
    nbytes: int
    releases: int
    failed: int


def render_page(content: Mapping[str, Any], name: str, nights: Sequence[Night]) -> str:
    """Return the page of a report.

    Parameters
    ----------
    content : mapping
        What the JSON has; see :mod:`pipeline.report`.
    name : str
        The name of the two files, without their endings.
    nights : sequence of Night
        The history, earliest first, this one last; empty for a task without dates.
    """
    about = content["night"] or (_release_name(content["releases"][0]) if len(content["releases"]) == 1 else "")
    parts = (_note(content), _shares(content), _failures(content), _table(content), _history(nights), _asked(content))
    return _PAGE.substitute(
        title=_text(f"{content['task']} {about}: {content['state']}"),
        refresh='<meta http-equiv="refresh" content="10">' if content["state"] == "running" else "",
        task=_text(content["task"]),
        about=_text(about),
        state=_text(content["state"]),
        sentence=_sentence(content),
        body="\n".join(filter(None, parts)),
        started=_time(content["started"]),
        updated=_time(content["updated"]),
        ended="last written" if content["state"] == "running" else "ended",
        json=quote(f"{name}.json"),
        program=_text(content["program"]),
    )


def _text(text: object) -> str:
    """Return any text so that it shows what it is and nothing more: no markup, no controls, no change of direction."""
    shown = printable(text)
    if len(shown) > _LONGEST_TEXT:
        shown = f"{shown[: _LONGEST_TEXT // 2]} ... {shown[-_LONGEST_TEXT // 2 :]}"
    return html.escape(shown)


def _foreign(text: object, kind: str = "") -> str:
    return f'<bdi class="{kind}">{_text(text)}</bdi>' if kind else f"<bdi>{_text(text)}</bdi>"


def _paragraphs(text: str) -> str:
    return "<br>".join(map(_foreign, text.splitlines()))


def _number(number: int, one: str = "", many: str = "") -> str:
    unit = one if number == 1 else many or f"{one}s"
    return f"{number:,} {unit}" if one else f"{number:,}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _time(text: str) -> str:
    return _text(text.replace("T", " ").replace("Z", " UTC"))


def _release_name(release: Mapping[str, Any]) -> str:
    return str(release["title"]) + (f"-v{release['version']}" if release["version"] else "")


def _is_audit(totals: Mapping[str, int]) -> bool:
    return any(totals[key] for key in ("checked_blobs", "missing_blobs", "damaged_records", "unnamed_blobs"))


def _sentence(content: Mapping[str, Any]) -> str:
    """Return what was done, in sentences."""
    totals, releases, state = content["totals"], content["releases"], content["state"]
    verb, place = _SENTENCES.get(content["task"], ("Did", ""))
    places = {key: _foreign(value, "place") for key, value in content["asked"].items()}
    where = place.format_map(defaultdict(lambda: "?", places))
    if state == "unchanged":
        return _unchanged(totals, releases)
    audit = _is_audit(totals)
    done = totals["releases"] - totals["unchanged_releases"] - (0 if audit else totals["failed_releases"])
    one = releases[0] if len(releases) == 1 else None
    said = []
    if not done:
        said.append(f"Nothing was {verb.lower()} {where}.")
    elif state in ("running", "interrupted"):
        ended = totals["done_releases"]
        what = _foreign(_release_name(one)) if one else f"{ended:,} of {_number(done, 'release')}"
        lead = f"{verb} {what} so far" if not one else f"{verb[:-2]}ing {what}"
        said.append(f"{lead} {where}, {_duration(content['seconds'])} after the start.")
    else:
        told = [release["counts"] for release in releases if audit or release["state"] == "done"]
        count, nbytes = ("checked_blobs", "checked_bytes") if audit else ("blobs", "bytes")
        titles = all(release["version"] is None for release in releases)
        what = _foreign(_release_name(one)) if one else _number(done, "title" if titles else "release")
        size = f"{_number(sum(n[count] for n in told), 'blob')}, {format_bytes(sum(n[nbytes] for n in told))}"
        said.append(f"{verb} {what} ({size}) {where} in {_duration(content['seconds'])}.")
    return " ".join([*said, *(_found(totals) if audit else _outcome(totals, done))])


def _unchanged(totals: Mapping[str, int], releases: Sequence[Mapping[str, Any]]) -> str:
    count = totals["unchanged_releases"]
    if not count:
        return "Nothing to do."
    one = _foreign(_release_name(releases[0])) if len(releases) == 1 else "1 release"
    return f"Nothing to do: {f'all {count:,} releases were' if count > 1 else f'{one} was'} there already."


def _outcome(totals: Mapping[str, int], done: int) -> Iterator[str]:
    if totals["failed_releases"]:
        yield f"{_number(totals['failed_releases'], 'release')} failed."
    if totals["unchanged_releases"]:
        yield f"{totals['unchanged_releases']:,} {'were' if totals['unchanged_releases'] > 1 else 'was'} there already."


def _found(totals: Mapping[str, int]) -> Iterator[str]:
    kinds = {"damaged_blobs": "damaged blob", "missing_blobs": "missing blob", "damaged_records": "damaged record"}
    found = [_number(totals[key], kind) for key, kind in kinds.items() if totals[key]]
    yield f"Found {' and '.join(found)}." if found else "All of it is intact."
    if totals["repaired_blobs"]:
        yield f"Repaired {_number(totals['repaired_blobs'], 'blob')}."
    if totals["unnamed_blobs"]:
        size = format_bytes(totals["unnamed_bytes"])
        yield f"No record names {_number(totals['unnamed_blobs'], 'blob')} ({size})."


def _note(content: Mapping[str, Any]) -> str:
    if content["state"] == "running":
        return (
            f'<p class="note">This is how it stood at {_time(content["updated"])}. When that is long ago, the run was '
            "killed; run the same command again, and it does what is missing.</p>"
        )
    if content["state"] == "interrupted":
        return (
            '<p class="note">This ended before all was done: it was interrupted, or another run does the rest. Run the '
            "same command again, and it does what is missing.</p>"
        )
    return ""


def _shares(content: Mapping[str, Any]) -> str:
    """Return the bar that says what became of the blobs."""
    totals = content["totals"]
    shares = [
        (kind, meaning, count(totals))
        for kind, meaning, count in (_CHECKED_SHARES if _is_audit(totals) else _MOVED_SHARES)
    ]
    shares = [share for share in shares if share[2] > 0]
    if not shares or content["state"] == "unchanged":
        return ""
    bar = "".join(f'<i class="{kind}" style="flex-grow:{count}"></i>' for kind, _, count in shares)
    legend = "".join(
        f'<li><i class="{kind}"></i><b>{count:,}</b> {meaning}'
        + (f" ({format_bytes(totals['moved_bytes'])})" if meaning == "moved" else "")
        for kind, meaning, count in shares
    )
    return f'<div class="shares" aria-hidden="true">{bar}</div>\n<ul class="legend">{legend}</ul>'


def _failures(content: Mapping[str, Any]) -> str:
    failed = [release for release in content["releases"] if release["failures"]]
    entries = [f"<li><p>{_paragraphs(content['failure'])}</p>"] if content["failure"] else []
    for release in failed[:_MOST_FAILED]:
        by_reason: dict[str, list[str]] = {}
        for failure in release["failures"]:
            by_reason.setdefault(failure["reason"], []).append(failure["path"])
        reasons = "".join(f"<p>{_paragraphs(reason)}</p>{_paths(paths)}" for reason, paths in by_reason.items())
        more = release["more_failures"]
        reasons += f"<p>And {_number(more, 'more failure')} of this release.</p>" if more else ""
        entries.append(f"<li><h3>{_foreign(_release_name(release))}</h3>{reasons}")
    if len(failed) > _MOST_FAILED:
        entries.append(f"<li><p>And {_number(len(failed) - _MOST_FAILED, 'more release')}; the JSON names all.</p>")
    return f'<section class="failures"><h2>What failed</h2><ul>{"".join(entries)}</ul></section>' if entries else ""


def _paths(paths: Sequence[str]) -> str:
    items = [f"<li>{_foreign(path)}" for path in paths if path]
    shown, more = "".join(items[:_PATHS_OPEN]), items[_PATHS_OPEN:]
    rest = f"<details><summary>{len(more):,} more</summary><ul>{''.join(more)}</ul></details>" if more else ""
    return f'<ul class="paths">{shown}</ul>{rest}' if items else ""


def _table(content: Mapping[str, Any]) -> str:
    """Return the table of releases: those that failed first, then the largest; columns of zeros only are left out."""
    releases = sorted(content["releases"], key=lambda r: (r["state"] != "failed", -r["counts"]["bytes"]))
    if not releases:
        return ""
    columns = [key for key in _COLUMNS if any(release["counts"][key] for release in releases)]
    # A bar says something only beside others.
    largest = max(release["counts"]["bytes"] for release in releases) if len(releases) > 1 else 0
    heads = "".join(f"<th>{_COLUMNS[key]}" for key in columns)
    head = f"<thead><tr><th>Release<th>State<th>Size{heads}<th>Time</thead>"
    rows = [_row(release, columns, largest) for release in releases[:_MOST_ROWS]]
    many = ' class="many"' if len(rows) > 1 else ""
    table = f"<table{many}>{head}<tbody>{''.join(rows[:_ROWS_OPEN])}</tbody></table>"
    if more := rows[_ROWS_OPEN:]:
        table += (
            f"<details><summary>{_number(len(more), 'more release')}</summary>"
            f"<table{many}>{head}<tbody>{''.join(more)}</tbody></table></details>"
        )
    if len(releases) > _MOST_ROWS:
        table += f"<p>{_number(len(releases) - _MOST_ROWS, 'more release')} are in the JSON.</p>"
    title = "Release" if len(releases) == 1 else "Releases"
    return f'<section><h2>{title}</h2><div class="wide">{table}</div></section>'


def _row(release: Mapping[str, Any], columns: Sequence[str], largest: int) -> str:
    counts = release["counts"]
    notes = [_foreign(release["record"])] if release["record"] else []
    notes += [f"from {_foreign(release['origin'])}"] if release["origin"] else []
    small = f"<small>{'<br>'.join(notes)}</small>" if notes else ""
    cells = "".join(f"<td>{counts[key]:,}" if counts[key] else "<td>" for key in columns)
    bar = f'<i style="width:{100 * counts["bytes"] / largest:.1f}%"></i>' if largest else ""
    state = _text(release["state"])
    return (
        f'<tr><td>{_foreign(_release_name(release))}{small}<td class="{state}">{state}'
        f'<td class="size">{format_bytes(counts["bytes"])}{bar}{cells}'
        f"<td>{_duration(release['seconds'])}"
    )


def _history(nights: Sequence[Night]) -> str:
    if len(nights) < 2:
        return ""
    largest = max(night.nbytes for night in nights)
    bars, rows = [], []
    for night in nights:
        said = f"{format_bytes(night.nbytes)}, {_number(night.releases, 'release')}, {night.state}"
        said += f", {night.failed:,} failed" if night.failed else ""
        here = ' aria-current="page"' if night is nights[-1] else ""
        link = f'<a href="{quote(night.page)}"{here}'
        bar = f'<i style="height:{100 * night.nbytes / max(1, largest):.1f}%"></i>'
        bars.append(f'{link} class="{night.state}" title="{night.night}: {said}" tabindex="-1">{bar}</a>')
        rows.append(f"<li>{link}>{night.night}</a> {said}")
    return (
        f'<section style="max-width:max(13rem,{2.75 * len(nights)}rem)"><h2>Nights</h2>'
        f'<p class="ends"><span>at most {format_bytes(largest)}</span></p>'
        f'<div class="nights" aria-hidden="true">{"".join(bars)}</div>'
        f'<p class="ends"><span>{nights[0].night}</span><span>{nights[-1].night}</span></p>'
        f"<details><summary>{_number(len(nights), 'night')}</summary>"
        f'<ul class="list">{"".join(reversed(rows))}</ul></details></section>'
    )


def _asked(content: Mapping[str, Any]) -> str:
    asked = {name: value for name, value in content["asked"].items() if value not in ("", "[]", "False")}
    items = "".join(f"<dt>{_text(name)}<dd>{_foreign(value)}" for name, value in asked.items())
    return f"<section><h2>What was asked</h2><dl>{items}</dl></section>" if items else ""
