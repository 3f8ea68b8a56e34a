"""Let the branches that an input takes lead to the next one: ``python -m tests.attacks.guided [--seconds N] [TARGET]``.

It gives the readers of ``fuzz.py`` what atheris makes up (``pip install atheris``; it is for Linux, and no dependency
of the tests), each in a process of its own. A finding ends its process, with what was read in a file of that name.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

_LIMITS = ("-timeout=10", "-rss_limit_mb=2048", "-max_len=4096", "-verbosity=0", "-print_final_stats=1")


def guide(name: str, seconds: int) -> None:
    """Fuzz a target in this process; libFuzzer ends it."""
    import atheris

    # The readers import the package: it must not be imported before.
    with atheris.instrument_imports(include=["pipeline"]):
        from tests.attacks import fuzz

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(fuzz.TARGETS[name].seeds):
            Path(corpus, str(number)).write_bytes(seed)
        options = [*_LIMITS, f"-max_total_time={seconds}", f"-artifact_prefix={name.replace(' ', '-')}-"]
        atheris.Setup(["guided", *options, corpus], lambda data: fuzz.offer(name, data))
        atheris.Fuzz()


def main() -> None:
    """Fuzz all targets, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.guided", description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", help="one of those of fuzz.py")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: %(default)s)")
    options = parser.parse_args()
    if options.target:
        guide(options.target, options.seconds)
    from tests.attacks import fuzz

    failed = []
    for name in fuzz.TARGETS:
        print(f"--- {name}", flush=True)
        command = [sys.executable, "-m", "tests.attacks.guided", "--seconds", str(options.seconds), name]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    sys.exit(f"Something was found in: {', '.join(failed)}." if failed else 0)


if __name__ == "__main__":
    main()
