"""How gunicorn behaves as a child of a test run."""

import os
import signal
import threading
from typing import Any

worker_class = "gthread"
preload_app = True
timeout = 120
graceful_timeout = 10
# Newer versions open a control socket in the home directory, which several servers would fight for.
control_socket_disable = True
accesslog = os.path.join(os.environ["CDCS_STATE"], "access.log")
access_log_format = "%(m)s %(U)s %(s)s"


def on_starting(server: Any) -> None:
    """End the server when whoever started it is gone, even if that was by kill -9: nothing may outlive a test run."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def pre_fork(server: Any, worker: Any) -> None:
    """Hand no open database connection to a worker: SQLite forgets its locks in a fork, PostgreSQL mixes answers up."""
    from django.db import connections

    connections.close_all()
