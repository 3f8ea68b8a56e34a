"""The dependencies at both ends of their bounds: ``python -m tests.attacks.dependencies`` tries each Python there is.

In an environment with the lowest versions that are allowed, and in one with the newest, it runs the unit tests and a
story with real luigi processes; at last it asks pip-audit what is known to be unsafe.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.environments import NotInstalledError, cache_folder, last_line, locked, python_with
from tests.support import ROOT, Workshop, assert_archive_is_sound, tree

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PIP_AUDIT = "pip-audit==2.9.0"
# The second talks HTTP.
TESTS = ("tests/unit", "tests/test_cdcs_client.py")
FILES = {"a.csv": b"1,2\n", "data/b.h5": b"\x89HDF" * 1000, "data/twin.csv": b"1,2\n", "empty": b""}


def declared(*groups: str) -> list[Requirement]:
    """Return what pyproject.toml requires: ``""`` is what a user gets, ``build`` what builds it, others are extras."""
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    known = {"": content["project"]["dependencies"], "build": content["build-system"]["requires"]}
    known |= content["project"]["optional-dependencies"]
    return [Requirement(text) for group in groups for text in known[group]]


def lowest(group: str, *names: str) -> list[str]:
    """Return the requirements of a group, all or some, each as the lowest version that is allowed."""
    return [
        f"{requirement.name}=={specifier.version}"
        for requirement in declared(group)
        for specifier in requirement.specifier
        if specifier.operator == ">=" and (not names or canonicalize_name(requirement.name) in names)
    ]


def newest(*groups: str) -> list[str]:
    """Return the requirements of groups as they are; pip takes the newest."""
    return [str(requirement) for requirement in declared(*groups)]


def environment(python: str, requirements: Sequence[str], *, again: bool = False) -> Path:
    """Return the Python of an environment with some requirements; makes it when it is not there yet, or `again`.

    Raises
    ------
    NotInstalledError
        When pip cannot install them.
    """
    told = subprocess.run([python, "-c", "import sys; print(sys.version)"], check=True, capture_output=True, text=True)
    name = "bounds-" + hashlib.sha1("\0".join([told.stdout, *requirements]).encode()).hexdigest()[:12]
    folder = cache_folder() / name
    made = folder / "bin" / "python"
    with locked(name):
        if again or not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([python, "-m", "venv", folder], check=True, capture_output=True)
            install = [str(made), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
            done = subprocess.run(install, capture_output=True, text=True, check=False)
            if done.returncode:
                raise NotInstalledError(f"pip cannot install {', '.join(requirements)}: {last_line(done.stderr)}")
            (folder / "complete").touch()
    return made


def story(python: Path, workshop: Workshop) -> None:
    """Publish, fetch, mirror, audit and repair with an environment."""
    shop = _OtherWorkshop(python, workshop)
    project = shop.project(files=FILES)
    assert shop.publish("project", "1.0.0", archive="archive").code == 0
    fetched = shop.fetch(versions=">=1.0.0,<2.0.0", archive="archive", destination="fetched")
    assert fetched.code == 0, fetched.output
    found = tree(shop.folder / "fetched" / "sample-v1.0.0")
    assert {path: data for path, data in found.items() if not path.startswith(".rme")} == tree(project)
    assert shop.run("CreateArchive", archive="mirror").code == 0
    mirrored = shop.run("MirrorArchive", source="archive", destination="mirror")
    assert (mirrored.code, "1 releases, 2 blobs moved" in mirrored.output) == (0, True), mirrored.output
    victim = next(shop.folder.glob("mirror/*/*/blobs/*/*"))
    victim.write_bytes(victim.read_bytes()[::-1])
    audited = shop.run("AuditArchive", archive="mirror", repair_from="archive", report_directory="reports")
    assert (audited.code, "1 damaged, 0 missing, 1 repaired" in audited.output) == (0, True), audited.output
    for archive in ("archive", "mirror"):
        assert_archive_is_sound(shop.folder / archive)
    refused = shop.run("FetchRelease", title="sample", archive="http://127.0.0.1:9", user="alice")
    assert (refused.code, "Traceback" in refused.output) == (30, False), refused.output


class _OtherWorkshop(Workshop):
    """A workshop with the luigi of another environment."""

    def __init__(self, python: Path, workshop: Workshop) -> None:
        self.folder, self.archive, self._python = workshop.folder, workshop.archive, python
        self.environment = {**workshop.environment, "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}

    def command(self, task: str, **options: object) -> list[str]:
        """Return the command line of a task."""
        return [str(self._python), *super().command(task, **options)[1:]]


def try_out(python: str, ends: dict[str, list[str]]) -> list[str]:
    """Try both ends with one Python, and return what is wrong."""
    wrong = []
    for end, requirements in ends.items():
        began = time.monotonic()
        try:
            made = environment(python, requirements, again=end == "newest")
            unit = [str(made), "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *TESTS]
            done = subprocess.run(unit, cwd=ROOT, capture_output=True, text=True, check=False)
            said = last_line(done.stdout)
            if done.returncode:
                wrong.append(f"{python}, {end}: {said}\n{done.stdout[-3000:]}")
            with tempfile.TemporaryDirectory() as folder:
                story(made, Workshop(Path(folder)))
        except (NotInstalledError, AssertionError) as error:
            said = str(error)
            wrong.append(f"{python}, {end}: {said}")
        print(f"{python}, {end}: {said}, {time.monotonic() - began:.0f} s", flush=True)
    return wrong


def audit(requirements: Sequence[str]) -> tuple[int, int, list[str]]:
    """Return of how many packages pip-audit knows something, of how many nothing, and what is unsafe.

    It looks at the requirements and all that they bring. An index may have the packages and not what is known of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("\n".join(requirements) + "\n", encoding="utf-8")
        command = [str(python_with(PIP_AUDIT)), "-m", "pip_audit", "--progress-spinner=off", "-f=json", f"-r={file}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    packages = json.loads(done.stdout)["dependencies"] if done.stdout else []
    unsafe = [f"{one['name']} {one['version']}: {flaw['id']}" for one in packages for flaw in one.get("vulns", ())]
    unknown = sum("skip_reason" in one for one in packages)
    return len(packages) - unknown, unknown, unsafe


def main() -> None:
    """Run the long form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python", action="append", help="a Python to try; by default each of these that is on the PATH"
    )
    found = (f"python{version}" for version in PYTHONS)
    pythons = [python for python in parser.parse_args().python or found if _runs(python)]
    user, tests = ("", "metrics"), ("test",)
    ends = {
        "lowest": [one for group in (*user, *tests) for one in lowest(group)],
        "newest": newest(*user, *tests),
    }
    wrong = [said for python in pythons for said in try_out(python, ends)]
    for end, requirements in (("lowest", [*lowest(""), *lowest("metrics")]), ("newest", newest(*user))):
        known, unknown, unsafe = audit(requirements)
        print(f"pip-audit, {end}: knows {known} packages, nothing of {unknown}; {len(unsafe)} flaws", flush=True)
        wrong += unsafe
    print("\n".join(["", *wrong, f"{2 * len(pythons)} environments, {len(wrong)} findings"]))
    sys.exit(bool(wrong))


def _runs(python: str) -> bool:
    path = shutil.which(python)
    return path is not None and subprocess.run([path, "-V"], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    main()
