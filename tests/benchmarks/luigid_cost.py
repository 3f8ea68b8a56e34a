"""What luigid costs: a release whose blobs are all in the archive, and bare calls that tell luigid of as many tasks."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.data import Case
from tests.benchmarks.luigi_cost import Published, Say
from tests.benchmarks.measuring import Cost, measure, median
from tests.luigid import Scheduler

# With the arguments of Luigi's own worker for a blob.
_BARE_LOOP = """
import sys
from luigi.rpc import RemoteScheduler

scheduler = RemoteScheduler(sys.argv[1])
for number in range(int(sys.argv[2])):
    params = {"release": "sample-v1.0.0", "manifest": "0" * 40, "blobs": str(number), "path": f"data/{number}.bin"}
    scheduler.add_task(
        worker="bare", task_id=f"Bare_{number}", status="DONE", deps=None, runnable=False, priority=number,
        resources={}, params=params, family="Bare", module="bare", batchable=True, retry_policy_dict={},
        accepts_messages=False, owners=[], param_visibilities=dict.fromkeys(params, 0),
    )
"""


class LuigidCost(NamedTuple):
    """Publishing blobs that are all there through luigid, as many bare calls, and the ratio of both without starts."""

    blobs: int
    publish: Cost
    calls: Cost
    ratio: float


def luigid_cost(case: Case, rounds: int, folder: Path, say: Say) -> LuigidCost:
    """Measure both in turns, with one luigid."""
    published = Published(case, folder)
    nothing = median([published.measure(published.command) for _ in range(rounds)])
    scheduler = Scheduler(published.workshop)
    url = f"http://127.0.0.1:{scheduler.port}"
    variables = {"LUIGI_CONFIG_PATH": scheduler.workshop.environment["LUIGI_CONFIG_PATH"]}
    publish: list[Cost] = []
    calls: list[Cost] = []
    try:
        for number in range(rounds):
            published.record.unlink()
            publish.append(published.measure(published.command, variables))
            calls.append(measure([sys.executable, "-c", _BARE_LOOP, url, str(case.files)], folder, dict(os.environ)))
            say(f"{case} through luigid, round {number + 1} of {rounds}: {publish[-1].seconds:.2f} s")
        empty = median([measure([sys.executable, "-c", _BARE_LOOP, url, "0"], folder, dict(os.environ))])
    finally:
        scheduler.close()
    ours, bare = median(publish), median(calls)
    ratio = (ours.seconds - nothing.seconds) / (bare.seconds - empty.seconds)
    return LuigidCost(case.files, ours, bare, ratio)
