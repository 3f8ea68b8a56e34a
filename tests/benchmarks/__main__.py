"""How fast the program is, beside others that do the same in the same run: ``python -m tests.benchmarks``.

Every way is a whole process, in fresh folders with a home of their own, in turns; the files are in memory for
everybody. Peers that are not on the machine are installed into the cache folder of the tests: nothing is installed on
the system. All cases take hours, 40 GB and seven million inodes, because files are emptied in between and not removed;
``--cases S M`` is a part, and ``--scale 0.02`` a try.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks import report
from tests.benchmarks.data import CASES
from tests.benchmarks.luigi_cost import BlobCost, blob_cost, start_cost
from tests.benchmarks.luigid_cost import luigid_cost
from tests.benchmarks.plot import plot
from tests.benchmarks.running import installed_ways, run_case, version_of
from tests.benchmarks.ways import WAYS, Pipeline

_MANY_BLOBS = ("S", "H")


def main() -> None:
    """Print tables, and write JSON where asked."""
    options = _options()
    began = time.monotonic()

    def say(message: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {message}", file=sys.stderr, flush=True)

    cases = [CASES[name].scaled(options.scale) for name in options.cases]
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.folder) as name:
        folder = Path(name)
        ways, missing = installed_ways(options.ways, say)
        versions = {way.name: version_of(way, folder) for way in ways}
        results: dict[str, Any] = {"machine": report.machine(folder), "rounds": options.rounds, "scale": options.scale}
        results |= {"ways": {way.name: {"about": way.about, "version": versions[way.name]} for way in ways}}
        results |= {"missing": missing, "cases": []}
        print("# Benchmarks\n")
        print(", ".join(f"{key}: {value}" for key, value in results["machine"].items()), end=".\n\n")
        print(f"Medians of {options.rounds} rounds.\n")
        print("\n".join(f"- {way.name}: {way.about}. {versions[way.name]}".rstrip() for way in ways), end="\n\n")
        print("\n\n".join(missing), end="\n\n" if missing else "", flush=True)
        for case in cases:
            findings = run_case(case, ways, options.rounds, folder, say)
            print(report.markdown(findings, ways), flush=True)
            results["cases"].append(report.as_json(findings))
            _save(results, options.json)
            if options.plot and case == cases[0]:
                options.plot.write_text(plot(results["cases"][0], Pipeline.name), encoding="utf-8")
        start = start_cost(options.rounds, folder, say)
        blobs: list[BlobCost] = [
            blob_cost(case, options.rounds, folder, start, say) for case in cases if case.name in _MANY_BLOBS
        ]
        through_luigid = [
            luigid_cost(case, 1 if case.name == "H" else options.rounds, folder, say)
            for case in cases
            if case.name in _MANY_BLOBS
        ]
        print(report.luigi_markdown(start, blobs, through_luigid), flush=True)
        results["luigi"] = report.luigi_as_json(start, blobs, through_luigid)
        results["at the end"] = report.state(folder)
        print(", ".join(f"{key} at the end: {value}" for key, value in results["at the end"].items()), end=".\n")
        _save(results, options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = "; ".join(map(str, CASES.values()))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help=f"which files ({kinds})")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="who is compared")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default: 5)")
    parser.add_argument("--scale", type=float, default=1.0, help="fewer files, such as 0.02, for a try")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--plot", type=Path, help="draw the first case into this file, as SVG")
    parser.add_argument("--folder", type=Path, help="where to work; a disk, because in memory fsync costs nothing")
    return parser.parse_args()


def _save(results: dict[str, Any], file: Path | None) -> None:
    if file:
        file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
