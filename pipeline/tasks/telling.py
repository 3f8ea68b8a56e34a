"""How the scheduler is told how far a task is: nobody waits for it, and nothing fails when it is lost."""

import contextlib
import threading
from typing import Any


class Teller:
    """Tells the scheduler, in a thread of its own, how far tasks are; what comes while it is at it is left out."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def tell(self, task: Any, message: str, percentage: int) -> None:
        """Tell a message and a percentage for a running task.

        Parameters
        ----------
        task : luigi.Task
            Luigi gives it the methods for that while it runs.
        message : str
            How far it is, for people.
        percentage : int
            The same from 0 to 100.
        """
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=_tell, args=(task, message, percentage), daemon=True)
            self._thread.start()


def _tell(task: Any, message: str, percentage: int) -> None:
    # The scheduler may be slow, or lost, and the task may have ended meanwhile.
    with contextlib.suppress(Exception):
        # The scheduler's page takes the message for HTML, and there are names of files in it.
        task.set_status_message(message.replace("<", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}"))
    with contextlib.suppress(Exception):
        task.set_progress_percentage(percentage)
