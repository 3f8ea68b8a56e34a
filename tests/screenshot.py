"""Make the README's picture of luigid's page anew: ``python -m tests.screenshot``."""

import tempfile
from pathlib import Path

from tests.browser import Browser
from tests.luigid import Scheduler, ends
from tests.slow import SlowDisk
from tests.support import ROOT, Workshop

PICTURE = ROOT / "tests" / "integration" / "page.png"
MIB = 2**20


def main() -> None:
    """Publish something slowly, and take a picture of the page meanwhile."""
    with tempfile.TemporaryDirectory() as folder, Browser(1180, 870) as browser:
        workshop = Workshop(Path(folder))
        traces = {f"measurements/thru {n:03}.s2p": b"%d," % n * 2000 for n in range(240)}
        sweeps = {f"sweeps/{n} GHz.h5": b"%04d" % n * MIB for n in range(10, 90, 10)}
        workshop.project("waveguide", {**traces, **sweeps})
        disk = SlowDisk(workshop)
        disk.allow(3)
        scheduler = Scheduler(workshop)
        try:
            options = {"project_directory": "waveguide", "title": "waveguide-calibration", "release_version": "1.0.0"}
            run = scheduler.publish(**options)
            scheduler.wait_until(lambda: len(scheduler.tasks("UploadBlob", "BATCH_RUNNING")) == 48, "the last batch")
            browser.open(f"http://127.0.0.1:{scheduler.port}/static/visualiser/index.html#search__search=sweeps")
            browser.wait_until("!document.querySelector('.status-info .fa-spinner')", "the page knows all tasks")
            PICTURE.write_bytes(browser.screenshot())
            disk.recover()
            assert ends(run).code == 0
        finally:
            scheduler.close()


if __name__ == "__main__":
    main()
