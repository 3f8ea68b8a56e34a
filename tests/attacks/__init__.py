"""Attacks on the promises; each module has a long form: ``python -m tests.attacks.<module>``."""
