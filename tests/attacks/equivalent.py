"""Mutants that nobody can tell from the code itself, or that only cost time, with why.

Each is a module, the line without the fault and the line with it, as ``python -m tests.attacks.mutants`` prints them.
"""

_BY_REASON: dict[str, tuple[tuple[str, str, str], ...]] = {}
EQUIVALENT = {mutant: why for why, mutants in _BY_REASON.items() for mutant in mutants}
