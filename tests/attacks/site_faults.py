"""Let one call to the operating system fail in a task with a CDCS site, or kill the task before it.

``python -m tests.attacks.site_faults`` tries all of them, in an order that the seed tells, as long as there is time.
"""

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.attacks.faults import Fault, badly_ended, calls_of, possible_faults, strike
from tests.attacks.kills import KILLED, suicide
from tests.attacks.network import ACTIONS, Action, Place, a_place, each_at_a_place

KILL = "SIGKILL"


class LocalAttack(NamedTuple):
    """A call that fails in a task of the user, or before which the task is killed."""

    action: Action
    fault: Fault

    def __str__(self) -> str:
        """Return it as a sentence."""
        lasting = " and later" if self.fault.lasts else ""
        return f"{self.fault.error} at call {self.fault.step}{lasting} of '{self.action.name}'"


def all_attacks(place: Place, action: Action) -> list[LocalAttack]:
    """Return all that may go wrong with the calls of a task."""
    with contextlib.closing(place.round(action)) as site:
        calls = calls_of(site)
    kills = (Fault(step, KILL) for step in range(1, len(calls) + 1))
    return [LocalAttack(action, fault) for fault in (*possible_faults(calls), *kills)]


def carry_out(place: Place, attack: LocalAttack) -> tuple[list[str], str]:
    """Carry out an attack, and return what was wrong with what the user got, and how the task ended."""
    with contextlib.closing(place.round(attack.action)) as site:
        if attack.fault.error == KILL:
            outcome, call = site.run(suicide(site, attack.fault.step)), KILL
            wrong = [] if outcome.code in (0, KILLED) else [f"it ended with {outcome.code}: {outcome.output}"]
        else:
            outcome, call = strike(site, attack.fault)
            wrong = badly_ended(outcome)
        # What was done may be forgotten, because the cache may be what fails.
        wrong += site.wrong_after(outcome, may_look_again=True)
        return [f"{attack} ({call}): {what}" for what in wrong], f"exit {outcome.code}"


def main() -> int:
    """Attack for as long as is asked for, and print figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.site_faults", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long to go on; default: 600")
    parser.add_argument("--seed", type=int, default=6, help="of the order; default: 6")
    parser.add_argument("--only", default="", help="only attacks whose sentence holds this text")
    given = parser.parse_args()
    end, tried, findings, ends = time.monotonic() + given.seconds, 0, 0, Counter[str]()
    with tempfile.TemporaryDirectory() as folder, a_place(Path(folder)) as place:
        attacks = [attack for action in ACTIONS for attack in all_attacks(place, action) if given.only in str(attack)]
    random.Random(given.seed).shuffle(attacks)
    for place, attack in each_at_a_place(attacks):
        if time.monotonic() > end:
            break
        found, how = carry_out(place, attack)
        tried, findings, ends = tried + 1, findings + bool(found), ends + Counter([how])
        for finding in found:
            print(f"FINDING {finding}", flush=True)
    told = ", ".join(f"{count} x {how}" for how, count in sorted(ends.items()))
    print(f"{tried} of {len(attacks)} attacks ({told}), {findings} with findings, seed {given.seed}")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
