"""In which order attacks are tried: one of each sort before a second of any, so that whoever stops early tried all."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def one_of_each_first(items: Sequence[Item], sort: Callable[[Item], Hashable]) -> list[Item]:
    """Return the items, as they are but in rounds that have each sort once, as far as there are any left of it.

    Examples
    --------
    >>> one_of_each_first(["a1", "a2", "b1", "a3", "b2"], lambda item: item[0])
    ['a1', 'b1', 'a2', 'b2', 'a3']
    """
    seen: Counter[Hashable] = Counter()

    def number(item: Item) -> int:
        seen[sort(item)] += 1
        return seen[sort(item)]

    return sorted(items, key=number)


def share_of_sorts(items: Sequence[Item], tried: int, sort: Callable[[Item], Hashable]) -> str:
    """Return how many sorts are among the first items, of how many that there are.

    Examples
    --------
    >>> share_of_sorts(["a1", "b1", "a2", "c1"], 3, lambda item: item[0])
    '2 of 3'
    """
    return f"{len({sort(item) for item in items[:tried]})} of {len({sort(item) for item in items})}"
