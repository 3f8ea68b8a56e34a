"""Programs of others that tests and benchmarks need, each in an environment of its own in the user's cache folder."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import platformdirs


class NotInstalledError(RuntimeError):
    """Something cannot be installed here; says in one sentence why."""


def cache_folder() -> Path:
    """Return where environments are kept between runs; it may be deleted at any time."""
    own = os.environ.get("PIPELINE_TEST_CACHE")
    return Path(own or platformdirs.user_cache_dir("release-pipeline-tests", appauthor=False))


def python_with(requirement: str) -> Path:
    """Return the Python of an environment with one requirement; makes it when it is not there yet.

    Parameters
    ----------
    requirement : str
        For pip, such as ``name==1.2``.

    Raises
    ------
    NotInstalledError
        When pip cannot install it.
    """
    name = f"{requirement.replace('==', '-')}-py{sys.version_info.major}.{sys.version_info.minor}"
    folder = cache_folder() / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    with locked(name):
        if not (folder / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, capture_output=True)
            install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]
            done = subprocess.run(install, capture_output=True, text=True, check=False)
            if done.returncode:
                shutil.rmtree(folder)
                raise NotInstalledError(f"pip cannot install {requirement} here: {last_line(done.stderr)}")
            (folder / "complete").touch()
    return python


def debian_program(program: str, *packages: str) -> tuple[Path, dict[str, str]]:
    """Return a program of Debian's and the variables that it needs; nothing is installed on the system.

    Parameters
    ----------
    program : str
        Its name. A program of that name on the PATH is taken as it is.
    *packages : str
        The packages that it is in. What they depend on, and is not on the system, comes with them.

    Raises
    ------
    NotInstalledError
        When the packages cannot be downloaded.
    """
    if there := shutil.which(program):
        return Path(there), {}
    folder = cache_folder() / f"debian-{program}"
    with locked(folder.name):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _unpack(program, packages, folder)
            (folder / "complete").touch()
    libraries = sorted({str(file.parent) for file in folder.rglob("*.so*")})
    variables = {"LD_LIBRARY_PATH": ":".join(libraries)} if libraries else {}
    if (folder / "fonts.conf").exists():
        variables["FONTCONFIG_FILE"] = str(folder / "fonts.conf")
    return folder / "usr" / "bin" / program, variables


def _unpack(program: str, packages: tuple[str, ...], folder: Path) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise NotInstalledError(f"{program} is not installed, and only on Debian it can be downloaded; install it.")
    # Lists of packages of our own are as new as the packages, and need no root.
    (folder / "lists" / "partial").mkdir(parents=True)
    options = [
        "-qq",
        f"-oDir::State::Lists={folder / 'lists'}",
        "-oDir::Cache::pkgcache=",
        "-oDir::Cache::srcpkgcache=",
    ]

    def apt_get(*command: str) -> str:
        line = ["apt-get", *options, "-oAPT::Sandbox::User=root", "-oDebug::NoLocking=1", *command]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotInstalledError(
                f"apt-get cannot download {program}; install the package {packages[0]}, or see to this: "
                f"{last_line(done.stderr)}"
            )
        return done.stdout

    apt_get("update", "--error-on=any")
    plan = apt_get("install", "--simulate", "--no-install-recommends", *packages)
    apt_get("download", *re.findall(r"^Inst (\S+)", plan, re.MULTILINE))
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, folder], check=True, capture_output=True)
        package.unlink()
    shutil.rmtree(folder / "lists")
    if (fonts := folder / "usr" / "share" / "fonts").exists():
        # The configuration that came with them only knows fonts that are installed.
        (folder / "fonts.conf").write_text(f"<fontconfig><dir>{fonts}</dir></fontconfig>")


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Keep other sessions from installing the same at the same time."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with (cache_folder() / f"{name}.lock").open("w") as stream:
        if os.name == "posix":
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def last_line(text: str) -> str:
    """Return the last line of what a program wrote."""
    return (text.strip().splitlines() or ["no reason given"])[-1]
