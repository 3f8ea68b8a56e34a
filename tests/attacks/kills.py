"""Kill runs with SIGKILL, before a random call to the operating system or at a random moment.

``python -m tests.attacks.kills`` kills runs of every operation, alone and two at once, with one worker and with two.
"""

import argparse
import contextlib
import errno
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.attacks.calls import Call, intercept
from tests.attacks.faults import KILLED, Attacked, calls_of
from tests.attacks.scenes import SCENES, Scene, Scenery, Stage
from tests.forked import ForkedRun
from tests.support import Outcome

# Luigi forks a process for each task, which does not end with the one that started it.
TWO_WORKERS = {"workers": 2}


def killed_at(stage: Stage, step: int, has_links: bool = True, **options: object) -> Outcome:
    """Run an operation in which each process is killed before its call number `step`."""
    return stage.run(suicide(stage, step, has_links), **options)


def suicide(stage: Attacked, step: int, has_links: bool = True) -> Callable[[], None]:
    """Return what makes a process kill itself before its call number `step`, perhaps where there are no hard links."""
    count = 0

    def die(call: Call, make: Callable[[], Any]) -> Any:
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)
        if call.name == "link" and not has_links:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), call.path, None, call.other)
        return make()

    return lambda: intercept(stage.folders(), die)


def killed_after(run: ForkedRun, seconds: float, *, alone: bool) -> None:
    """Kill a run some time after it was started: its first process alone, or all of them."""
    time.sleep(seconds)  # until the random moment of the kill
    with contextlib.suppress(ProcessLookupError):
        (os.kill if alone else os.killpg)(run.pid, signal.SIGKILL)


def badly_ended(outcome: Outcome) -> list[str]:
    """Return what is wrong with the end of a run that was killed, or ran beside one that was."""
    said = outcome.code == 0 or (outcome.code == 30 and "was ended from outside" in outcome.output)
    if outcome.code == KILLED or (said and "Traceback" not in outcome.output):
        return []
    return [f"it ended with {outcome.code}: {outcome.output}"]


def kill_at_a_call(stage: Stage, dice: random.Random, most: int) -> tuple[list[str], int]:
    """Kill a run at a random call; sometimes the next one, which goes on with what it left, too."""
    found, kills = [], 0
    has_links = dice.random() < 0.8
    for _ in range(dice.choice([1, 1, 3])):
        outcome = killed_at(stage, dice.randrange(1, most + 1), has_links, **dice.choice([{}, {}, TWO_WORKERS]))
        kills += outcome.code == KILLED
        found += [*badly_ended(outcome), *stage.broken()]
    return found, kills


def kill_at_a_moment(stage: Stage, dice: random.Random, seconds: float) -> tuple[list[str], int]:
    """Kill a run at a random moment; sometimes with two workers, and without the processes that it forked."""
    options, alone = dice.choice([({}, True), (TWO_WORKERS, True), (TWO_WORKERS, False)])
    run = stage.fork(**options)
    killed_after(run, dice.uniform(0, seconds), alone=alone)
    outcome = run.ends()
    return [*badly_ended(outcome), *stage.broken()], outcome.code == KILLED


def kill_one_of_two(stage: Stage, dice: random.Random, seconds: float, most: int) -> tuple[list[str], int]:
    """Let two runs do the same at once, and kill one or both."""
    first = stage.fork(suicide(stage, dice.randrange(1, most + 1)))
    time.sleep(dice.uniform(0, seconds / 2))  # so that the second run comes at another moment each time
    second = stage.fork()
    if dice.random() < 0.5:
        killed_after(second, dice.uniform(0, seconds), alone=True)
    outcomes = [first.ends(), second.ends()]
    found = [wrong for outcome in outcomes for wrong in badly_ended(outcome)]
    return [*found, *stage.broken()], sum(outcome.code == KILLED for outcome in outcomes)


def attack(scenery: Scenery, scene: Scene, dice: random.Random) -> tuple[list[str], int]:
    """Kill runs of an operation in one of the ways, and return what was found and how many died."""
    most, seconds = measured(scenery, scene)
    with scenery.stage(scene) as stage:
        way = dice.randrange(3)
        if way == 0:
            found, kills = kill_at_a_call(stage, dice, most)
        elif way == 1:
            found, kills = kill_at_a_moment(stage, dice, seconds)
        else:
            found, kills = kill_one_of_two(stage, dice, seconds, most)
        found += stage.completed()
    return [f"{scene.name}: {sentence}" for sentence in found], kills


_measured: dict[tuple[int, str], tuple[int, float]] = {}


def measured(scenery: Scenery, scene: Scene) -> tuple[int, float]:
    """Return how many calls an operation makes, and how many seconds it takes."""
    key = id(scenery), scene.name
    if key not in _measured:
        with scenery.stage(scene) as stage:
            began = time.monotonic()
            _measured[key] = len(calls_of(stage)), time.monotonic() - began
    return _measured[key]


def main() -> int:
    """Kill runs, tell what was found, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.kills", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long to go on; default: 600")
    parser.add_argument("--rounds", type=int, default=10**9, help="how many runs to attack at most")
    parser.add_argument("--seed", type=int, default=6, help="of the first attack; each has the next one; default: 6")
    parser.add_argument("--scene", choices=SCENES, action="append", help="only this operation; may be repeated")
    given = parser.parse_args()
    end = time.monotonic() + given.seconds
    scenes = [SCENES[name] for name in given.scene or SCENES]
    kills, findings = Counter[str](), 0
    seed = given.seed
    with tempfile.TemporaryDirectory() as folder:
        scenery = Scenery(Path(folder))
        while time.monotonic() < end and seed < given.seed + given.rounds:
            dice = random.Random(seed)
            scene = dice.choice(scenes)
            found, died = attack(scenery, scene, dice)
            kills[scene.name] += died
            findings += bool(found)
            if found:
                print(f"--seed {seed} --rounds 1", *found, sep="\n  ", flush=True)
            seed += 1
    told = ", ".join(f"{count} of {name}" for name, count in sorted(kills.items()))
    print(f"{seed - given.seed} attacks, {kills.total()} runs killed ({told}), {findings} with findings")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
