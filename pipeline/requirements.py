"""Which releases a release requires, and which versions of them fit together.

The ``requirements`` of a record are texts such as ``cable-models>=0.2.0,<0.3.0``: a title, and expressions over its
versions. Records are read from outside, so that nothing in here is taken for granted.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .errors import InvalidNameError, InvalidVersionError, RequirementsError, printable
from .names import normalize_title, record_title
from .versions import matches, parse_expressions, precedence

# No real release comes near these; what does is an attack or an accident.
MOST_RELEASES = 300
_MOST_REQUIREMENTS = 500
_MOST_ATTEMPTS = 10_000
_SHOWN = 5


class Requirement(NamedTuple):
    """A release that another one requires.

    Attributes
    ----------
    title : str
        Its title without a version.
    expressions : tuple of str
        What its version must satisfy; none for any version.
    """

    title: str
    expressions: tuple[str, ...]

    def __str__(self) -> str:
        return self.title + ",".join(self.expressions)


def parse_requirements(content: Mapping[str, Any], workspace: str) -> tuple[Requirement, ...]:
    """Return what a record requires, each title once, in the order of the record.

    Parameters
    ----------
    content : mapping
        The record. In those of the earlier tool (rmellipse 0.4.5), a workspace and ``/`` may stand before a title.
    workspace : str
        Where the record is.

    Raises
    ------
    RequirementsError
        When one of the requirements is no text, cannot be understood, or is of another workspace.

    Examples
    --------
    >>> requirements = ["cable-models>=0.2.0, <0.3.0", "probes"]
    >>> [str(found) for found in parse_requirements({"title": "a-v1.0.0", "requirements": requirements}, "Lab")]
    ['cable-models>=0.2.0,<0.3.0', 'probes']
    """
    listed = content.get("requirements")
    where = f"the record of {printable(content.get('title'))}"
    if not isinstance(listed, (list, type(None))) or len(listed or ()) > _MOST_REQUIREMENTS:
        raise RequirementsError(f"'requirements' in {where} must be a list of at most {_MOST_REQUIREMENTS} texts.")
    found: dict[str, tuple[str, ...]] = {}
    for text in listed or ():
        title, expressions = _parse(text, workspace, where)
        found[title] = (*found.get(title, ()), *expressions)
    return tuple(Requirement(title, expressions) for title, expressions in found.items())


def _parse(text: object, workspace: str, where: str) -> Requirement:
    try:
        if not isinstance(text, str):
            raise InvalidNameError
        name = text[: min((text.find(sign) for sign in "=!<>" if sign in text), default=len(text))]
        place, slash, title = name.rpartition("/")
        expressions = ("".join(expression.split()) for expression in parse_expressions(text[len(name) :]))
        requirement = Requirement(normalize_title(title.strip()), tuple(expressions))
    except (InvalidNameError, InvalidVersionError):
        raise RequirementsError(
            f"'{printable(str(text)[:100])}' in the 'requirements' of {where} cannot be understood; a requirement is a "
            "title with version expressions, for example cable-models>=0.2.0,<0.3.0."
        ) from None
    if slash and place.strip() != workspace:
        raise RequirementsError(
            f"'{printable(text[:100])}' in the 'requirements' of {where} is in another workspace than "
            f"'{printable(workspace)}', where required releases are looked for; leave out --with-requirements, and "
            "fetch it by itself."
        )
    return requirement


def resolve(
    title: str,
    version: str,
    versions_of: Callable[[str], Sequence[str]],
    requirements_of: Callable[[str, str], Sequence[Requirement]],
) -> dict[str, str]:
    """Choose one version of every release that a release requires, and those require.

    In the order in which releases are first named, each gets the newest version with which all expressions can be
    satisfied. An older one is only taken where every newer one leaves another release without a version.

    Parameters
    ----------
    title, version : str
        The release that was asked for.
    versions_of : callable
        Returns all versions of a title; none where there is no such release.
    requirements_of : callable
        Returns what a version of a title requires. It is called only for versions that may be chosen.

    Returns
    -------
    dict
        Title to version, in the order of choosing; the first is the release that was asked for.

    Raises
    ------
    RequirementsError
        When there is no such choice, or the chosen releases require each other in a circle.
    """
    search = _Search(title, version, versions_of, requirements_of)
    if search.choose(title) is not None:
        raise RequirementsError(search.problem)
    if chain := _find_circle(title, search.chosen, requirements_of):
        raise RequirementsError(
            f"These releases require each other in a circle: {' -> '.join(chain)}; publish a version of one of them "
            "that does without."
        )
    return search.chosen


class _Search:
    """Looks for a choice of versions, newest first; goes back to the latest choice that stands in the way."""

    def __init__(
        self,
        title: str,
        version: str,
        versions_of: Callable[[str], Sequence[str]],
        requirements_of: Callable[[str, str], Sequence[Requirement]],
    ) -> None:
        self._title = title
        self._root = record_title(title, version)
        self.chosen: dict[str, str] = {}
        self.problem = ""
        self._problem_is_plain = False
        self._requirements_of = requirements_of
        self._versions_of = versions_of
        self._versions: dict[str, list[str]] = {title: [version]}
        self._allowed: dict[Requirement, frozenset[str]] = {}
        # Title to who requires it, in the order in which the titles were found.
        self._wanted: dict[str, list[tuple[str, Requirement]]] = {title: []}
        self._attempts = 0

    def choose(self, title: str) -> set[str] | None:
        """Choose a version of a release and of all that are still open.

        Returns None when that was possible. Otherwise it returns titles whose versions, chosen before, leave no choice.
        """
        to_blame = {requirer for requirer, _ in self._wanted[title]}
        for version in self._candidates(title):
            self._count_attempt()
            self.chosen[title] = version
            requirements = self._requirements_of(title, version)
            self._want(title, requirements)
            in_the_way = self._contradicted(requirements)
            if not in_the_way:
                following = next((name for name in self._wanted if name not in self.chosen), None)
                if following is None:
                    return None
                further = self.choose(following)
                if further is None:
                    return None
                if title not in further:
                    self._take_back(title, requirements)
                    return further
                in_the_way = further
            to_blame |= in_the_way - {title}
            self._take_back(title, requirements)
        return to_blame

    def _candidates(self, title: str) -> list[str]:
        """Return the versions that everything chosen so far allows, newest first."""
        candidates = self._fitting(title)
        if not candidates:
            self._explain(title)
        return candidates

    def _fitting(self, title: str) -> list[str]:
        allowed = [self._versions_for(requirement) for _, requirement in self._wanted[title]]
        return [version for version in self._all_versions(title) if all(version in some for some in allowed)]

    def _all_versions(self, title: str) -> list[str]:
        if title not in self._versions:
            known = self._versions_of(title)
            self._versions[title] = sorted(known, key=lambda version: (precedence(version), version), reverse=True)
        return self._versions[title]

    def _versions_for(self, requirement: Requirement) -> Collection[str]:
        if requirement not in self._allowed:
            versions = self._all_versions(requirement.title)
            self._allowed[requirement] = frozenset(v for v in versions if matches(v, requirement.expressions))
        return self._allowed[requirement]

    def _count_attempt(self) -> None:
        self._attempts += 1
        if self._attempts > _MOST_ATTEMPTS:
            raise RequirementsError(
                f"No choice of the releases that {self._root} requires was found in {_MOST_ATTEMPTS} attempts; publish "
                "a version of it that requires narrower ranges."
            )

    def _want(self, title: str, requirements: Sequence[Requirement]) -> None:
        for requirement in requirements:
            self._wanted.setdefault(requirement.title, []).append((title, requirement))
        if len(self._wanted) > MOST_RELEASES:
            raise RequirementsError(f"{self._root} requires more than {MOST_RELEASES} releases; this is not supported.")

    def _take_back(self, title: str, requirements: Sequence[Requirement]) -> None:
        for requirement in reversed(requirements):
            self._wanted[requirement.title].pop()
            if not self._wanted[requirement.title] and requirement.title != self._title:
                del self._wanted[requirement.title]
        del self.chosen[title]

    def _contradicted(self, requirements: Sequence[Requirement]) -> set[str]:
        """Return the titles of which a version is chosen that one of the requirements excludes."""
        contradicted = set()
        for requirement in requirements:
            version = self.chosen.get(requirement.title)
            if version is not None and version not in self._versions_for(requirement):
                contradicted.add(requirement.title)
                self._explain(requirement.title)
        return contradicted

    def _explain(self, title: str) -> None:
        """Keep the first reason why a choice is not possible; one that no other choice could cure is preferred."""
        if self._problem_is_plain:
            return
        self._problem_is_plain = not self._fitting(title)
        if self.problem and not self._problem_is_plain:
            return
        versions = self._all_versions(title)
        if not versions:
            requirer, requirement = self._wanted[title][0]
            self.problem = f"There is no release {title} in the archive, and {self._chain(requirer)} requires it"
            self.problem += f" ({requirement})." if requirement.expressions else "."
            return
        reasons = [f"{self._chain(requirer)} requires {requirement}" for requirer, requirement in self._wanted[title]]
        if title == self._title:
            reasons.insert(0, f"{self._root} was asked for")
        self.problem = (
            f"The requirements of {self._root} cannot all be met: {_some(reasons, '; ')}; "
            f"versions of {title}: {_some(versions, ', ')}."
        )

    def _chain(self, title: str) -> str:
        """Return how a release came to be required: the releases from the first to this one."""
        chain = [title]
        while chain[-1] != self._title:
            chain.append(self._wanted[chain[-1]][0][0])
        return " -> ".join(record_title(name, self.chosen[name]) for name in reversed(chain))


def _some(texts: Sequence[str], separator: str) -> str:
    more = f"{separator}and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return separator.join(texts[:_SHOWN]) + more


def _find_circle(
    root: str, chosen: Mapping[str, str], requirements_of: Callable[[str, str], Sequence[Requirement]]
) -> list[str]:
    """Return a chain of releases from the first to one that is in the chain already; empty when there is none."""

    def required(title: str) -> Iterator[str]:
        return (requirement.title for requirement in requirements_of(title, chosen[title]))

    chain, open_ends, finished = [root], [required(root)], set[str]()
    while chain:
        following = next(open_ends[-1], None)
        if following is None:
            finished.add(chain.pop())
            open_ends.pop()
        elif following in chain:
            return [*(record_title(title, chosen[title]) for title in chain), following]
        elif following not in finished:
            chain.append(following)
            open_ends.append(required(following))
    return []
