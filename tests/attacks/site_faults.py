"""Let one call to the operating system fail in a task with a CDCS site, or kill the task before it.

``python -m tests.attacks.site_faults`` tries all of them as long as there is time: each call in one way before any in
two, in an order that the seed tells.
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
from tests.attacks.network import ACTIONS, Action, Place, a_place, each_at_a_place
from tests.attacks.order import one_of_each_first, share_of_sorts


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
        return [LocalAttack(action, fault) for fault in possible_faults(calls_of(site))]


def carry_out(place: Place, attack: LocalAttack) -> tuple[list[str], str]:
    """Carry out an attack, and return what was wrong with what the user got, and how the task ended."""
    with contextlib.closing(place.round(attack.action)) as site:
        outcome, call = strike(site, attack.fault)
        # What was done may be forgotten, because the cache may be what fails.
        wrong = [*badly_ended(outcome), *site.wrong_after(outcome, may_look_again=True)]
        return [f"{attack} ({call}): {what}" for what in wrong], f"exit {outcome.code}"


def _call(attack: LocalAttack) -> tuple[str, int]:
    return attack.action.name, attack.fault.step


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
    attacks = one_of_each_first(attacks, _call)
    for place, attack in each_at_a_place(attacks):
        if time.monotonic() > end:
            break
        found, how = carry_out(place, attack)
        tried, findings, ends = tried + 1, findings + bool(found), ends + Counter([how])
        for finding in found:
            print(f"FINDING {finding}", flush=True)
    told = ", ".join(f"{count} x {how}" for how, count in sorted(ends.items()))
    calls = share_of_sorts(attacks, tried, _call)
    print(f"{tried} of {len(attacks)} attacks at {calls} calls ({told}), {findings} with findings, seed {given.seed}")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
