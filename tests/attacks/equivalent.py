"""Mutants that nobody can tell from the code itself by what is kept and said, with why.

Each is a module, the line without the fault and the line with it, as ``python -m tests.attacks.mutants`` prints them,
and, where the module has several such lines, which of them.
"""

_BY_REASON: dict[str, tuple[tuple[str, str, str] | tuple[str, str, str, int], ...]] = {
    "Only how much is done at a time, or what is made ready early, is another.": (
        ("transfer.py", "_GROUP_FILES = 256", "_GROUP_FILES = 512"),
        ("folders.py", "_MOST_OPEN = 256", "_MOST_OPEN = 512"),
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
        ("transfer.py", "_LONGEST_UNSYNCED_SECONDS = 2.0", "_LONGEST_UNSYNCED_SECONDS = 3.0"),
        (
            "transfer.py",
            "most = most_open_files(_GROUP_FILES, share=4)",
            "most = most_open_files(_GROUP_FILES, share=5)",
        ),
        (
            "transfer.py",
            "if time.monotonic() - self._synced_at > _LONGEST_UNSYNCED_SECONDS:",
            "if time.monotonic() - self._synced_at >= _LONGEST_UNSYNCED_SECONDS:",
        ),
        (
            "transfer.py",
            "if group and (files + len(move.targets) > most or nbytes > _GROUP_BYTES):",
            "if group and (files + len(move.targets) > most or nbytes >= _GROUP_BYTES):",
        ),
        (
            "transfer.py",
            "chunk = min(self._chunk, move.size - there + 1)",
            "chunk = min(self._chunk, move.size - there + 2)",
        ),
        ("transfer.py", "group.folders.make(self._staging.folder)", "pass"),
        (
            "transfer.py",
            "chunk = min(self._chunk, move.size - there + 1)",
            "chunk = min(self._chunk, move.size + there + 1)",
        ),
        ("archives/cdcs/uploads.py", "_BATCH = 90", "_BATCH = 91"),
        (
            "archives/cdcs/uploads.py",
            "answer = self._curator.query(self._templates, query, self.workspace, few=True)",
            "answer = self._curator.query(self._templates, query, self.workspace, few=False)",
        ),
        (
            "archives/cdcs/uploads.py",
            "for data in read_chunks(stream, min(CHUNK, blob.size + 1)):",
            "for data in read_chunks(stream, min(CHUNK, blob.size + 2)):",
        ),
    ),
    "Only how much is read of what is too long is another.": (
        (
            "archives/cdcs/uploads.py",
            "with self._curator.open_blob(stored.handle, most=blob.size + 1) as stream:",
            "with self._curator.open_blob(stored.handle, most=blob.size + 2) as stream:",
        ),
    ),
    "Any number below zero asks for everything.": (
        (
            "archives/cdcs/uploads.py",
            "def read(self, size: int = -1) -> bytes:",
            "def read(self, size: int = -2) -> bytes:",
        ),
    ),
    "Only after how long, or how many bytes, something is forgotten is another.": (
        ("archives/cdcs/uploads.py", "_INDEX_SECONDS = 3600.0", "_INDEX_SECONDS = 7200.0"),
        (
            "archives/cdcs/uploads.py",
            "for digest in [digest for digest, (_, at) in self._made.items() if at < since]:",
            "for digest in [digest for digest, (_, at) in self._made.items() if at <= since]:",
        ),
        (
            "archives/cdcs/downloads.py",
            "self._failures, self._progress = 0, 0",
            "self._failures, self._progress = 0, 1",
            1,
        ),
        (
            "archives/cdcs/downloads.py",
            "self._failures, self._progress = 0, 0",
            "self._failures, self._progress = 0, 1",
            2,
        ),
    ),
    "The name tells the microsecond, so that nothing has it.": (
        (
            "archives/filesystem_audit.py",
            "write_file(data, name, staging, exclusive=True)",
            "write_file(data, name, staging, exclusive=False)",
        ),
    ),
    "Only of how many folders digests are remembered is another.": (
        ("checksums.py", "_MOST_FOLDERS = 1000", "_MOST_FOLDERS = 2000"),
    ),
    "The flag is zero except on Windows.": (
        (
            "checksums.py",
            '_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)',
            '_READ = os.O_RDONLY & getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)',
        ),
    ),
    "Only how often it is tried is another.": (
        ("locks.py", "_ATTEMPTS = 1000", "_ATTEMPTS = 2000"),
        ("locks.py", "if attempt == _ATTEMPTS - 1:", "if attempt == _ATTEMPTS - 2:"),
    ),
    "Any number above zero is as good; zero is the lock on everything.": (
        ("locks.py", "return 1 + int(digest[:12], 16)", "return 2 + int(digest[:12], 16)"),
        ("locks.py", "return 1 + int(digest[:12], 16)", "return 1 + int(digest[:13], 16)"),
        ("locks.py", "return 1 + int(digest[:12], 16)", "return 1 + int(digest[:12], 17)"),
        ("locks.py", "_lock(self._fd, 0, _EVERYTHING)", "_lock(self._fd, 1, _EVERYTHING)"),
    ),
    "Any number below zero stands for nothing that is open.": (
        ("locks.py", "self._fd = -1", "self._fd = -2", 1),
        ("locks.py", "self._fd = -1", "self._fd = -2", 2),
        ("folders.py", "_NO_HANDLE = -1", "_NO_HANDLE = -2"),
    ),
    "The file is opened when its folders are, so that it never gets the number zero.": (
        ("locks.py", "if self._fd >= 0:", "if self._fd > 0:"),
        ("locks.py", "if self._fd >= 0:", "if self._fd >= 1:"),
        (
            "locks.py",
            "for attempt in range(_ATTEMPTS if self._fd < 0 else 0):",
            "for attempt in range(_ATTEMPTS if self._fd <= 0 else 0):",
        ),
        (
            "locks.py",
            "for attempt in range(_ATTEMPTS if self._fd < 0 else 0):",
            "for attempt in range(_ATTEMPTS if self._fd < 1 else 0):",
        ),
    ),
    "There are more such calls on every system that has these.": (
        (
            "folders.py",
            "_HAS_HANDLES = {os.open, os.mkdir, os.rename, os.link, os.unlink, os.rmdir, os.stat} "
            "<= os.supports_dir_fd",
            "_HAS_HANDLES = {os.open, os.mkdir, os.rename, os.link, os.unlink, os.rmdir, os.stat} < os.supports_dir_fd",
        ),
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
    "Nothing has exactly that age.": (
        (
            "manifest.py",
            "if file.stat().st_mtime < time.time() - _KEPT_SECONDS:",
            "if file.stat().st_mtime <= time.time() - _KEPT_SECONDS:",
        ),
        (
            "archives/filesystem_audit.py",
            "return time.time() - written < _ABANDONED_SECONDS",
            "return time.time() - written <= _ABANDONED_SECONDS",
        ),
    ),
    "Any range without a number is refused.": (
        (
            "manifest.py",
            "first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)",
            "first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, -1)",
        ),
        (
            "manifest.py",
            "first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)",
            "first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -2)",
        ),
    ),
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
        ("archives/cdcs/uploads.py", "if len(data) == self._blob.size:", "if len(data) != self._blob.size:"),
    ),
    "A part gets the rights that it has already.": (
        (
            "transfer.py",
            'if mode & ~0o666 and hasattr(os, "fchmod"):',
            'if mode | ~0o666 and hasattr(os, "fchmod"):',
        ),
        (
            "transfer.py",
            'if mode & ~0o666 and hasattr(os, "fchmod"):',
            'if mode & ~0o666 or hasattr(os, "fchmod"):',
        ),
    ),
    "The owner may write what could be opened, and that bit is not in the mask.": (
        ("transfer.py", 'if mode & ~0o666 and hasattr(os, "fchmod"):', 'if mode & ~876 and hasattr(os, "fchmod"):'),
    ),
    "It is written over: no blob is empty.": (("transfer.py", "os.ftruncate(fd, 0)", "os.ftruncate(fd, 1)", 2),),
    "Only how many threads there are, or how soon there are more, is another.": (
        ("archives/cdcs/uploads.py", "_AT_ONCE = 8", "_AT_ONCE = 9"),
        (
            "archives/cdcs/uploads.py",
            'self._hasher = ThreadPoolExecutor(1, thread_name_prefix="pipeline-hash")',
            'self._hasher = ThreadPoolExecutor(2, thread_name_prefix="pipeline-hash")',
        ),
        ("workers.py", "TICK_SECONDS = 0.2", "TICK_SECONDS = 1.2"),
        ("workers.py", "_LOOK_SECONDS = 0.05", "_LOOK_SECONDS = 1.05"),
        ("workers.py", "_BUSY = 0.5", "_BUSY = 1.5"),
        (
            "workers.py",
            "def __init__(self, threads: int, tick: Callable[[], None], useful: int = 1) -> None:",
            "def __init__(self, threads: int, tick: Callable[[], None], useful: int = 2) -> None:",
        ),
        ("workers.py", "if nbytes > _SMALL_BYTES * len(todo):", "if nbytes >= _SMALL_BYTES * len(todo):"),
        (
            "workers.py",
            "finished, pending = wait(pending, _LOOK_SECONDS if self._useful < most else TICK_SECONDS)",
            "finished, pending = wait(pending, _LOOK_SECONDS if (not (self._useful < most)) else TICK_SECONDS)",
        ),
        (
            "workers.py",
            "finished, pending = wait(pending, _LOOK_SECONDS if self._useful < most else TICK_SECONDS)",
            "finished, pending = wait(pending, _LOOK_SECONDS if self._useful <= most else TICK_SECONDS)",
        ),
        (
            "workers.py",
            "waits = time.process_time() - busy < _BUSY * (time.monotonic() - began)",
            "waits = time.process_time() - busy <= _BUSY * (time.monotonic() - began)",
        ),
        (
            "workers.py",
            "waits = time.process_time() - busy < _BUSY * (time.monotonic() - began)",
            "waits = time.process_time() - busy < _BUSY * (time.monotonic() + began)",
        ),
        (
            "workers.py",
            "if todo and waits and self._useful < most:",
            "if todo and waits and self._useful <= most:",
        ),
        (
            "workers.py",
            "if todo and waits and self._useful < most:",
            "if todo or waits and self._useful < most:",
        ),
        ("workers.py", "self._useful += more", "pass"),
        (
            "workers.py",
            "more = min(self._useful, most - self._useful)",
            "more = min(self._useful, most + self._useful)",
        ),
        (
            "workers.py",
            "waits = time.process_time() - busy < _BUSY * (time.monotonic() - began)",
            "waits = time.process_time() - busy < _BUSY // (time.monotonic() - began)",
        ),
        (
            "workers.py",
            "self, function: Callable[[Item], None], items: Iterable[Item], nbytes: int = 0",
            "self, function: Callable[[Item], None], items: Iterable[Item], nbytes: int = 1",
        ),
        (
            "workers.py",
            "def each(self, function: Callable[[Item], None], items: Iterable[Item], nbytes: int = 0) "
            "-> dict[Item, Exception]:",
            "def each(self, function: Callable[[Item], None], items: Iterable[Item], nbytes: int = 1) "
            "-> dict[Item, Exception]:",
        ),
        (
            "workers.py",
            "if todo and waits and self._useful < most:",
            "if todo and waits or self._useful < most:",
        ),
        (
            "workers.py",
            "self._useful = min(self._threads, max(self._useful, os.cpu_count() or 1))",
            "self._useful = min(self._threads, max(self._useful, os.cpu_count() or 2))",
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
