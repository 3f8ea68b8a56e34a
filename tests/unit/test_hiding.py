"""Secrets that others put into a text are not shown, however they are spelled."""

import html
import json
import logging
import resource
import subprocess
import sys
import urllib.parse

import pytest

from pipeline import hiding
from pipeline.errors import printable
from pipeline.hiding import hide, hide_login, hide_proxies

SECRET = 'b3"tween <&> \\ the  lines/ü'


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hiding, "_known", ())


@pytest.mark.parametrize(
    "spelled",
    [
        SECRET,
        json.dumps(SECRET),
        json.dumps([json.dumps({SECRET: SECRET}, ensure_ascii=False)], ensure_ascii=False),
        repr([SECRET]),
        repr(SECRET.encode()),
        urllib.parse.quote(SECRET),
        urllib.parse.quote(SECRET, safe="").lower(),
        urllib.parse.urlencode({"password": SECRET}),
        urllib.parse.quote(json.dumps({"password": SECRET})),
        html.escape(SECRET),
        " ".join(SECRET.split()),
        SECRET.encode().decode("latin-1"),
    ],
)
def test_a_secret_is_hidden_in_every_spelling(spelled: str) -> None:
    hide(SECRET)
    shown = printable(f"before {spelled} after")
    assert "***" in shown
    assert "tween" not in shown


def test_of_secrets_that_are_parts_of_each_other_nothing_is_left() -> None:
    hide("secret")
    hide("my-secret-token")
    assert printable("secret my-secret-token") == "*** ***"


def test_nothing_and_what_is_as_short_as_a_word_is_not_hidden() -> None:
    hide(None, "", "a")
    assert printable("a text") == "a text"


def test_the_header_that_a_password_makes_is_hidden_too() -> None:
    hide_login("alice", "open sesame")
    assert printable("Authorization: Basic YWxpY2U6b3BlbiBzZXNhbWU=") == "Authorization: Basic ***"


def test_the_passwords_of_proxies_in_the_environment_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://alice:open%20sesame@proxy.example.org:3128")
    monkeypatch.setenv("http_proxy", "http://[broken")
    hide_proxies()
    assert printable("open sesame, open%20sesame, YWxpY2U6b3BlbiBzZXNhbWU=") == "***, ***, ***"


def test_urllib3_logs_neither_a_secret_nor_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    import pipeline  # noqa: F401  which sets up the filter

    hide("open-sesame")
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("urllib3.connectionpool").debug("GET %s", "/x?token=open-sesame")
        try:
            raise ValueError("open-sesame")
        except ValueError:
            logging.getLogger("urllib3.connection").warning("Failed to parse", exc_info=True)
    assert caplog.messages == ["GET /x?token=***"]


def test_a_process_that_knows_a_secret_leaves_no_core_file() -> None:
    script = (
        "import resource, sys; from pipeline.hiding import hide; before = resource.getrlimit(resource.RLIMIT_CORE); "
        "hide('open sesame'); print(before[1] == resource.getrlimit(resource.RLIMIT_CORE)[1], "
        "resource.getrlimit(resource.RLIMIT_CORE)[0])"
    )
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    told = subprocess.run(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (most, most)),
    )
    assert told.stdout == "True 0\n"
