"""Start a CDCS playground on loopback: ``python -m tests.cdcs_server``."""

import argparse
import shutil
import signal
from pathlib import Path

from tests.environments import cache_folder

from .server import USERS, CDCSServer, install


def main() -> None:
    """Run a server until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.cdcs_server", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="port on 127.0.0.1 (default: 8000)")
    parser.add_argument("--folder", type=Path, help="where to keep the data (default: a folder in the user's cache)")
    parser.add_argument("--fresh", action="store_true", help="delete the data of the last time first")
    parser.add_argument("--install-only", action="store_true", help="only make the server's environment")
    parser.add_argument("--no-token", action="store_true", help="give no tokens, as stock CDCS")
    parser.add_argument("--no-basic", action="store_true", help="refuse HTTP Basic, as recent MDCS")
    parser.add_argument("--xml-content", action="store_true", help="call the content of a record xml_content")
    parser.add_argument("--anonymous", action="store_true", help="let everybody read public workspaces")
    parser.add_argument("--extensions", default="any", help="'any', 'stock' or a list such as '.csv,.h5'")
    parser.add_argument("--database", default="", help="postgresql://user:password@host:port/name instead of SQLite")
    options = parser.parse_args()

    print("Preparing the server (the first time installs about 250 MB) ...", flush=True)
    install()
    if options.install_only:
        return
    folder = options.folder or cache_folder() / "playground"
    if options.fresh and (folder / "prepared").exists():
        shutil.rmtree(folder)
    server = CDCSServer(
        folder,
        port=options.port,
        token=not options.no_token,
        basic=not options.no_basic,
        xml_content=options.xml_content,
        anonymous=options.anonymous,
        extensions=options.extensions,
        database=options.database,
    )
    server.start()
    try:
        print(f"\nCDCS is running at {server.base_url} (data in {folder}).\nUsers and passwords:")
        for user in USERS.values():
            what = "administrator" if user.superuser else "may publish" if user.publishes else "may only read"
            print(f"  {user.name:6} {user.password:16} {what}")
        print("Press Ctrl-C to stop it.", flush=True)
        _wait_for_a_signal()
    finally:
        server.stop()
    print("\nStopped.")


def _wait_for_a_signal() -> None:
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    signal.sigwait(signals)


if __name__ == "__main__":
    main()
