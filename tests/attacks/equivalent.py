"""Mutants that nobody can tell from the code itself by what is kept and said, with why.

Each is a module, the line without the fault and the line with it, as ``python -m tests.attacks.mutants`` prints them,
and, where the module has several such lines, which of them.
"""

_BY_REASON: dict[str, tuple[tuple[str, str, str] | tuple[str, str, str, int], ...]] = {
    "Only how much is done at a time, or what is made ready early, is another.": (
        ("transfer.py", "_GROUP_FILES = 256", "_GROUP_FILES = 512"),
        ("transfer.py", "group, files, nbytes = [], 0, 0", "group, files, nbytes = [], 1, 0"),
        ("transfer.py", "group, files, nbytes = [], 0, 0", "group, files, nbytes = [], 0, 1"),
        (
            "folders.py",
            "return max(1, min(most, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // share))",
            "return max(2, min(most, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // share))",
        ),
        (
            "transfer.py",
            "if time.monotonic() - self._synced_at > _LONGEST_UNSYNCED_SECONDS:",
            "if time.monotonic() + self._synced_at > _LONGEST_UNSYNCED_SECONDS:",
        ),
        (
            "folders.py",
            "self._most = most_open_files(_MOST_OPEN, share=8)",
            "self._most = most_open_files(_MOST_OPEN, share=9)",
        ),
        ("checksums.py", 'connection.execute("PRAGMA synchronous = OFF")', "pass"),
    ),
    "Only how often it is tried is another.": (
        ("locks.py", "_ATTEMPTS = 1000", "_ATTEMPTS = 2000"),
        ("locks.py", "if attempt == _ATTEMPTS - 1:", "if attempt == _ATTEMPTS - 2:"),
    ),
    "Any number above zero is as good; zero is the lock on everything.": (
        ("locks.py", "return 1 + int(digest[:12], 16)", "return 2 + int(digest[:12], 16)"),
        ("locks.py", "return 1 + int(digest[:12], 16)", "return 1 + int(digest[:13], 16)"),
    ),
    "Nothing is read of it: only the length that the site tells counts.": (
        (
            "archives/cdcs/uploads.py",
            "with self._curator.open_blob(description.pid, most=description.size + 1, attempts=1) as stream:",
            "with self._curator.open_blob(description.pid, most=description.size - 1, attempts=1) as stream:",
        ),
        (
            "archives/cdcs/uploads.py",
            "with self._curator.open_blob(description.pid, most=description.size + 1, attempts=1) as stream:",
            "with self._curator.open_blob(description.pid, most=description.size + 2, attempts=1) as stream:",
        ),
        (
            "archives/cdcs/uploads.py",
            "with self._curator.open_blob(description.pid, most=description.size + 1, attempts=1) as stream:",
            "with self._curator.open_blob(description.pid, most=description.size + 1, attempts=2) as stream:",
        ),
    ),
    "The digest tells it too, a little later.": (("transfer.py", "raise move.wrong()", "pass", 3),),
    "It is code for Windows.": (("folders.py", "return most", "return None"),),
    "Only the thread that hashes is another.": (
        (
            "transfer.py",
            "hashing = self._hashers.submit(digest.update, data) if len(data) >= _LARGE_BYTES else None",
            "hashing = self._hashers.submit(digest.update, data) if (not (len(data) >= _LARGE_BYTES)) else None",
        ),
        (
            "transfer.py",
            "hashing = self._hashers.submit(digest.update, data) if len(data) >= _LARGE_BYTES else None",
            "hashing = self._hashers.submit(digest.update, data) if len(data) > _LARGE_BYTES else None",
        ),
    ),
    "Any width that is longer than every id sorts alike.": (
        (
            "archives/cdcs/uploads.py",
            "return data.created, str(data.id).zfill(64)",
            "return data.created, str(data.id).zfill(65)",
        ),
    ),
    "It is closed with everything else at the end.": (("archives/cdcs/uploads.py", "self._opened.close()", "pass"),),
}
EQUIVALENT = {
    (mutant if len(mutant) == 4 else (*mutant, 1)): why for why, mutants in _BY_REASON.items() for mutant in mutants
}
