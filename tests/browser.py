"""A real browser, Debian's chromium without a window, that a test looks at a page with.

It is driven by its DevTools protocol over a pair of pipes: there is no port and no driver, and it ends with the tests.
"""

import base64
import itertools
import json
import os
import select
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Any

from tests.environments import debian_program

PATIENCE = 40.0
_FLAGS = [
    "--headless=new",
    "--no-sandbox",  # there is none for root, and the pages are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    # Nothing but this machine can be asked.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
]


class Browser:
    """A chromium with one page; a context manager.

    Attributes
    ----------
    asked : list of tuple
        What the page asked for: kind, as ``Script`` or ``XHR``, and URL.
    complaints : list of str
        Errors of the page's scripts.
    """

    def __init__(self, width: int = 1280, height: int = 800) -> None:
        self.asked: list[tuple[str, str]] = []
        self.complaints: list[str] = []
        self._numbers = itertools.count(1)
        self._received = b""
        self._session: str | None = None
        self._size = f"{width},{height}"

    def __enter__(self) -> "Browser":
        wrapper, variables = debian_program("chromium", "chromium")
        # The wrapper only knows a browser that is installed.
        program = wrapper.resolve().parents[1] / "lib" / "chromium" / "chromium"
        self._profile = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        self._log = tempfile.TemporaryFile()
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        # It reads from descriptor 3 and writes to 4.
        script = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        flags = [*_FLAGS, f"--user-data-dir={self._profile.name}", f"--window-size={self._size}"]
        self._process = subprocess.Popen(
            ["bash", "-c", script, program, *flags, "about:blank"],
            env={**os.environ, **variables, "HOME": self._profile.name},
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        (page,) = (t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Performance"):
            self._call(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._to)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)
        self._log.close()
        self._profile.cleanup()

    def _call(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        request = {"id": number, "method": method, "params": parameters}
        if self._session:
            request["sessionId"] = self._session
        os.write(self._to, json.dumps(request).encode() + b"\0")
        while (answer := self._next_message()).get("id") != number:
            self._note(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _next_message(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._from], [], [], PATIENCE)
            data = os.read(self._from, 2**20) if ready else b""
            assert data, f"chromium does not answer: {self._said()}"
            self._received += data
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)  # type: ignore[no-any-return]  # as the protocol says

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2000:]

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Network.requestWillBeSent":
            self.asked.append((event["params"]["type"], event["params"]["request"]["url"]))
        elif event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(event["params"]["exceptionDetails"]))

    def open(self, url: str) -> None:
        """Go to a page, anew also when it is there already."""
        self._call("Page.navigate", url="about:blank")
        self._call("Page.navigate", url=url)
        self.wait_until("document.readyState == 'complete'", f"{url} is loaded")

    def see(self, expression: str) -> Any:
        """Return what an expression of JavaScript is on the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait_until(self, expression: str, what: str) -> Any:
        """Return what an expression is when it comes true."""
        end = time.monotonic() + PATIENCE
        while not (value := self.see(expression)):
            assert time.monotonic() < end, f"waited in vain until {what}; the page reads: {self.text()}"
            time.sleep(0.05)
        return value

    def text(self, selector: str = "body") -> str:
        """Return what can be read in a part of the page."""
        return str(
            self.see(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.innerText).join('\\n')")
        )

    def click(self, selector: str) -> None:
        """Click what a CSS selector names first."""
        self.see(f"document.querySelector({json.dumps(selector)}).click()")

    def screenshot(self) -> bytes:
        """Return a picture of what is in the window, as PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def memory(self) -> int:
        """Return how many bytes the page's scripts and nodes take."""
        self._call("HeapProfiler.collectGarbage")
        metrics = {item["name"]: item["value"] for item in self._call("Performance.getMetrics")["metrics"]}
        return int(metrics["JSHeapUsedSize"])
