"""The results as one picture, an SVG that is readable on light and on dark pages."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_WIDTH, _LEFT, _RIGHT = 720, 110, 60
_BAR, _GAP, _HEADING = 16, 4, 30
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.heading { font-weight: bold }
.name { text-anchor: end }
.ours { fill: #0969da }
.other { fill: #8c959f }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .ours { fill: #4493f8 }
  .other { fill: #6e7681 }
}
"""


def plot(case: Mapping[str, Any], ours: str) -> str:
    """Return the medians of a case as bars, one group for each operation.

    Parameters
    ----------
    case : mapping
        As `report.as_json` returns it.
    ours : str
        The way that is drawn in another colour.
    """
    bars, height = [], 0
    for operation, ways in case["operations"].items():
        if ours in ways:
            seconds = {way: found["median"]["seconds"] for way, found in ways.items()}
            bars += list(_group(operation, seconds, ours, height))
            height += _HEADING + len(seconds) * (_BAR + _GAP)
    size = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
    title = escape(f"{case['case']}: median seconds, less is better")
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{title}">']
    return "\n".join([*lines, f"<title>{title}</title>", f"<style>{_STYLE}</style>", *bars, "</svg>"]) + "\n"


def _group(operation: str, seconds: Mapping[str, float], ours: str, top: int) -> Iterator[str]:
    yield f'<text class="heading" x="0" y="{top + _HEADING - 10}">{escape(operation)}</text>'
    longest = max(seconds.values())
    for number, (way, value) in enumerate(seconds.items()):
        y = top + _HEADING + number * (_BAR + _GAP)
        width = max(1, round((_WIDTH - _LEFT - _RIGHT) * value / longest))
        kind = "ours" if way == ours else "other"
        yield f'<text class="name" x="{_LEFT - 6}" y="{y + 12}">{escape(way)}</text>'
        yield f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{width}" height="{_BAR}" rx="2"/>'
        yield f'<text x="{_LEFT + width + 6}" y="{y + 12}">{value:.2f} s</text>'
