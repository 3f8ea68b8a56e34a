"""Whatever a network or a disk does to a task with a site: it is complete or says why not, then completes.

Nothing is on the site twice, and nothing is lost.
"""

import random
from collections.abc import Iterator

import pytest

from tests.attacks import site_faults
from tests.attacks.faults import KILL
from tests.attacks.network import ACTIONS, Action, Place, a_place, carry_out, sample

# The same attacks on every machine.
SEED = 20261123


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with a_place(tmp_path_factory.mktemp("network")) as place:
        yield place


def test_every_fault_of_a_network_is_survived(place: Place) -> None:
    attacks = sample(random.Random(SEED))
    findings = [finding for attack in attacks for finding in carry_out(place, attack)]
    assert not findings, "\n".join(findings)
    assert place.attempts["struck"] == len(attacks)


@pytest.mark.parametrize("action", ACTIONS, ids=[action.name for action in ACTIONS])
def test_a_call_to_the_system_that_fails_or_never_returns_is_survived(place: Place, action: Action) -> None:
    dice = random.Random(action.name)
    attacks = site_faults.all_attacks(place, action)
    kill = dice.choice([attack for attack in attacks if attack.fault.error == KILL])
    for attack in (dice.choice(attacks), kill):
        findings, _ = site_faults.carry_out(place, attack)
        assert not findings, "\n".join(findings)
