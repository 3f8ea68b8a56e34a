"""Whatever a network does to a run: it is complete or says why not, then completes; nothing is twice, nothing lost."""

import random
from collections.abc import Iterator

import pytest

from tests.attacks.network import Place, a_place, carry_out, sample

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
