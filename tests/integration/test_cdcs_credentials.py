"""Secrets on the way to a site: asked for at a real terminal, kept in a keyring, refused, replaced, and never shown."""

import base64
import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keyring
import pytest
from luigi.configuration.cfg_parser import LuigiConfigParser

from pipeline import CDCSArchive, credentials
from pipeline.errors import CredentialsError, PipelineError
from tests.cdcs_server import USERS, CDCSServer
from tests.cdcs_server.fake import CERTIFICATE, FakeSite, Seen, Visit
from tests.support import LOGS_ON_SCREEN, Outcome, Workshop, sha1, tree
from tests.terminal import PATIENCE, Terminal

PASSWORD = USERS["alice"].password
PUBLIC = "Global Public Workspace"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CDCSServer]:
    with CDCSServer(tmp_path_factory.mktemp("cdcs")) as server:
        CDCSArchive(server.base_url, "admin", USERS["admin"].password).install_templates()
        yield server


class Desk:
    """Where somebody works with a site, with a home folder and a keyring of its own."""

    def __init__(self, workshop: Workshop, server: CDCSServer, title: str) -> None:
        self.workshop, self.server, self.title = workshop, server, title
        self.keyring_file = workshop.folder / "keyring.json"
        self.service = f"release-pipeline {server.base_url}"
        environment = workshop.environment
        for name in [name for name in environment if name.startswith(("PIPELINE_USER", "PIPELINE_PASSWORD", "XDG_"))]:
            del environment[name]
        home = workshop.folder / "home"
        home.mkdir()
        environment |= {
            "HOME": str(home),
            "PYTHON_KEYRING_BACKEND": "tests.file_keyring.FileKeyring",
            "TEST_KEYRING_FILE": str(self.keyring_file),
        }
        workshop.project(files={"a.csv": title.encode(), "b/c.csv": title.encode() * 2})

    def keep(self, user: str, password: str) -> None:
        """Put a password into the keyring."""
        self.keyring_file.write_text(json.dumps({self.service: {user: password}}))

    @property
    def kept(self) -> dict[str, str]:
        """The passwords in the keyring."""
        return json.loads(self.keyring_file.read_text())[self.service] if self.keyring_file.exists() else {}

    def put_files(self, **files: str) -> None:
        """Hand over credential files as systemd does."""
        folder = self.workshop.folder / "credentials"
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(f"{content}\n")
        self.workshop.environment["CREDENTIALS_DIRECTORY"] = str(folder)

    def options(self, **options: object) -> dict[str, Any]:
        return {"title": self.title, "archive": self.server.base_url, **options}

    def published(self, **options: object) -> dict[str, Any]:
        return self.options(project_directory="project", release_version="0.1.0", **options)

    def publish(self, **options: object) -> Outcome:
        """Publish without a terminal."""
        return self.workshop.run("PublishRelease", **self.published(**options))

    def publish_at_a_terminal(self, **options: object) -> Terminal:
        command = self.workshop.command("PublishRelease", **self.published(**options))
        return Terminal(command, self.workshop.folder, self.workshop.environment)


@pytest.fixture
def desk(workshop: Workshop, server: CDCSServer, request: pytest.FixtureRequest) -> Desk:
    words = re.sub("[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())
    return Desk(workshop, server, words[:60].strip("-"))


def token_of_alice(server: CDCSServer) -> str:
    body = json.dumps({"username": "alice", "password": PASSWORD}).encode()
    question = urllib.request.Request(
        f"{server.base_url}/api-token-auth/", body, {"Content-Type": "application/json", "Connection": "close"}
    )
    with urllib.request.urlopen(question, timeout=PATIENCE) as answer:
        return str(json.load(answer)["token"])


def assert_one_sentence(outcome: Outcome, *parts: str) -> None:
    assert outcome.code == 30, outcome.output
    assert "Traceback" not in outcome.output
    for part in parts:
        assert part in outcome.output


# --- at a terminal ----------------------------------------------------------------------------------------------------


def test_a_password_is_asked_for_once_without_showing_it_and_stored_when_the_site_accepts_it(desk: Desk) -> None:
    terminal = desk.publish_at_a_terminal(workers=2)
    terminal.wait_for(f"User name for {desk.server.base_url}: ")
    terminal.type("alice")
    terminal.wait_for(f"Password of alice for {desk.server.base_url}: ")
    terminal.type("not her password")
    terminal.wait_for("does not accept the password of 'alice'; asking again.")
    assert desk.kept == {}
    terminal.wait_for("User name for ")
    terminal.type("alice")
    terminal.wait_for("Password of alice")
    terminal.type(PASSWORD)
    outcome = terminal.end()
    assert outcome.code == 0, outcome.output
    assert outcome.output.count("User name for") == outcome.output.count("Password of alice") == 2
    assert re.search(r"User name for \S+ alice\n", outcome.output), "a user name is shown as it is typed"
    assert "not her password" not in outcome.output
    assert PASSWORD not in outcome.output
    assert desk.kept == {"alice": PASSWORD}

    nightly = desk.publish()
    assert nightly.code == 0, nightly.output
    assert "Nothing to do" in nightly.output


def test_a_stored_password_that_is_wrong_is_asked_for_and_replaced(desk: Desk) -> None:
    desk.keep("alice", "her old password")
    terminal = desk.publish_at_a_terminal()
    terminal.wait_for("does not accept the password of 'alice' that is stored in the system keyring; asking again.")
    terminal.wait_for(f"Password of alice for {desk.server.base_url}: ")
    terminal.type(PASSWORD)
    outcome = terminal.end()
    assert outcome.code == 0, outcome.output
    assert desk.kept == {"alice": PASSWORD}
    assert "her old password" not in outcome.output


def test_who_gives_up_is_asked_no_more(desk: Desk) -> None:
    command = desk.workshop.command("CreateArchive", archive=desk.server.base_url, user="alice")
    terminal = Terminal(command, desk.workshop.folder, desk.workshop.environment)
    for _ in range(3):
        terminal.wait_for("Password of alice")
        terminal.type("not her password")
    outcome = terminal.end()
    assert_one_sentence(outcome, "does not accept the password of 'alice'; run again and type the right one")
    assert outcome.output.count("Password of alice") == 3
    assert desk.kept == {}


# --- at night ---------------------------------------------------------------------------------------------------------


def test_a_nightly_job_without_credentials_ends_at_once_although_its_input_stays_open(desk: Desk) -> None:
    desk.workshop.environment["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"
    command = desk.workshop.command("PublishRelease", **desk.published(user="alice"))
    job = subprocess.Popen(
        command,
        cwd=desk.workshop.folder,
        env=desk.workshop.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with job:
        assert job.wait(PATIENCE) == 30
        output = job.stdout.read() if job.stdout else ""
    assert_one_sentence(Outcome(30, output), "There is no password of 'alice' for", "nobody to ask; set PIPELINE_USER")
    assert output.count("There is no usable system keyring here") == 1


def test_credential_files_of_a_unit_are_enough_on_a_machine_without_keyring(desk: Desk) -> None:
    desk.workshop.environment["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"
    desk.put_files(PIPELINE_USER="alice", PIPELINE_PASSWORD=PASSWORD)
    outcome = desk.publish()
    assert outcome.code == 0, outcome.output
    assert "keyring" not in outcome.output


@pytest.mark.parametrize("by_alias", [False, True])
def test_variables_of_an_alias_are_used_for_its_site_by_either_name(desk: Desk, by_alias: bool) -> None:
    file = desk.workshop.folder / "luigi.cfg"
    file.write_text(file.read_text().replace("[archives]", f"[archives]\nlab = {desk.server.base_url}/"))
    desk.workshop.environment["PIPELINE_TOKEN_LAB"] = token_of_alice(desk.server)
    desk.workshop.environment["PIPELINE_TOKEN"] = "another-one"
    outcome = desk.publish(archive="lab" if by_alias else desk.server.base_url)
    assert outcome.code == 0, outcome.output


def test_wrong_credentials_are_told_with_the_place_that_they_come_from(desk: Desk) -> None:
    desk.keep("alice", "her old password")
    assert_one_sentence(
        desk.publish(),
        f"{desk.server.base_url} does not accept the password of 'alice' that is stored in the system keyring; "
        "run once in a terminal to be asked for the right one, or set PIPELINE_PASSWORD or PIPELINE_TOKEN",
    )
    desk.put_files(PIPELINE_PASSWORD="another old one")
    assert_one_sentence(
        desk.publish(user="alice"), "the password of 'alice' in the credential file PIPELINE_PASSWORD; correct it there"
    )
    desk.workshop.environment["PIPELINE_TOKEN"] = "01dt0ken"
    wrong = desk.publish()
    assert_one_sentence(wrong, "the token of the user in the environment variable PIPELINE_TOKEN; correct it there")
    assert "01dt0ken" not in wrong.output


def test_a_site_without_tokens_tells_a_wrong_stored_password_too(workshop: Workshop, tmp_path: Path) -> None:
    with CDCSServer(tmp_path / "basic", token=False) as server:
        desk = Desk(workshop, server, "sample")
        desk.keep("alice", "her old password")
        assert_one_sentence(desk.publish(), "the password of 'alice' that is stored in the system keyring")
        desk.keep("alice", PASSWORD)
        assert_one_sentence(desk.publish(), "ask its administrator to install it")


def test_a_script_replaces_a_stored_password_by_giving_another(desk: Desk) -> None:
    desk.keep("alice", "her old password")
    script = (
        "import sys; from pipeline.archive_interface import get_interface; "
        "get_interface(sys.argv[1], 'alice', sys.stdin.read()).get_release_versions('sample')"
    )
    subprocess.run(
        [sys.executable, "-c", script, desk.server.base_url],
        input=PASSWORD,
        cwd=desk.workshop.folder,
        env=desk.workshop.environment,
        check=True,
        text=True,
    )
    assert desk.kept == {"alice": PASSWORD}
    assert desk.publish().code == 0


# --- on the way -------------------------------------------------------------------------------------------------------


def passing_on(server: CDCSServer) -> Callable[[Visit, Seen], None]:
    """Return what a proxy does in front of a server."""

    def answer(visit: Visit, seen: Seen) -> None:
        known = {name: value for name, value in seen.headers.items() if name != "Host"}
        status, headers, body = visit.forward(server.local_url, seen._replace(headers=known))
        visit.reply(status, body, content_type=headers.get("Content-Type", "text/plain"))

    return answer


def test_a_private_authority_is_trusted_by_a_setting_only(desk: Desk) -> None:
    desk.workshop.environment |= {"PIPELINE_USER": "alice", "PIPELINE_PASSWORD": PASSWORD}
    with FakeSite(passing_on(desk.server), tls=True) as proxy:
        refused = desk.publish(archive=proxy.url)
        assert_one_sentence(refused, "is not trusted; ")
        assert proxy.seen == []
        with (desk.workshop.folder / "luigi.cfg").open("a") as config:
            config.write(f"ca_bundle = {CERTIFICATE}\n")
        outcome = desk.publish(archive=proxy.url)
        assert outcome.code == 0, outcome.output
        assert any(seen.headers.get("Authorization", "").startswith("Token ") for seen in proxy.seen)


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> LuigiConfigParser:
    """The configuration of this process, which knows no hosts yet."""
    config = LuigiConfigParser()
    monkeypatch.setattr(LuigiConfigParser, "_instance", config)
    monkeypatch.setattr(credentials, "_hosts", set())
    monkeypatch.setattr(credentials, "_only_host", [])
    for name in [name for name in os.environ if name.startswith(("PIPELINE_USER", "PIPELINE_PASS", "PIPELINE_TOKEN"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    return config


def test_plain_http_gets_a_password_only_where_the_configuration_says_so(
    monkeypatch: pytest.MonkeyPatch, config: LuigiConfigParser, server: CDCSServer
) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda host, *rest: resolve("127.0.0.1" if host == "cdcs.lab" else host, *rest)
    )
    with FakeSite(passing_on(server)) as proxy:
        url = proxy.url.replace("127.0.0.1", "cdcs.lab")
        with pytest.raises(CredentialsError, match=r"unencrypted; use https, or name the host in \[pipeline\] plain"):
            CDCSArchive(url)
        assert proxy.seen == []
        config.set("pipeline", "plain_http_hosts", "cdcs.lab")
        assert CDCSArchive(url, "alice", PASSWORD).missing_templates() == []
        assert any("Authorization" in seen.headers for seen in proxy.seen)


def test_a_blob_on_another_host_is_fetched_without_credentials(desk: Desk) -> None:
    desk.workshop.environment |= {"PIPELINE_USER": "alice", "PIPELINE_PASSWORD": PASSWORD}
    data = desk.title.encode()
    curator = CDCSArchive(desk.server.base_url, "alice", PASSWORD).curator
    with FakeSite(lambda visit, seen: visit.reply(200, data)) as elsewhere:
        node = {
            "/item/": "File",
            "/path/": "a.csv",
            "/bytes/": len(data),
            "/sha1/": sha1(data),
            "/bpid/": f"{elsewhere.url}/pid/1",
        }
        record = {
            "title": f"{desk.title}-v1.0.0",
            "title_versionless": desk.title,
            "version": "1.0.0",
            "project": {"a.csv": node},
        }
        curator.create_data(record["title"], curator.template_id("Release"), curator.workspace_id(PUBLIC), record)  # type: ignore[arg-type]
        outcome = desk.workshop.run("FetchRelease", **desk.options(destination="fetched"))
        assert outcome.code == 0, outcome.output
        assert (desk.workshop.folder / "fetched" / f"{desk.title}-v1.0.0" / "a.csv").read_bytes() == data
        assert [seen.path for seen in elsewhere.seen] == ["/pid/1"]
        assert "authorization" not in {name.lower() for name in elsewhere.seen[0].headers}


def test_of_two_hosts_in_one_process_neither_gets_the_plain_variables(
    monkeypatch: pytest.MonkeyPatch, config: LuigiConfigParser, server: CDCSServer
) -> None:
    from pipeline import FetchRelease

    monkeypatch.setenv("PIPELINE_USER", "alice")
    monkeypatch.setenv("PIPELINE_PASSWORD", PASSWORD)
    with FakeSite(lambda visit, seen: visit.reply(200, [])) as other:
        tasks = [FetchRelease(archive=url, title="two-hosts", destination="x") for url in (other.url, server.base_url)]
        for task in tasks:
            assert not task.complete()
            with pytest.raises(PipelineError, match="PIPELINE_PASSWORD cannot be used, because this run talks to sev"):
                task.run()
        assert other.seen == []


# --- nowhere ----------------------------------------------------------------------------------------------------------


class Luigid:
    """A central scheduler, and everything that it tells."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        command = [sys.executable, "-c", "from luigi.cmdline import luigid; luigid()"]
        with (folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--address", "127.0.0.1", "--port", str(self.port), "--state-path", "state.pickle"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.read("/api/task_list")
                return
            time.sleep(0.05)
        raise AssertionError((folder / "output").read_text())

    def read(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def ask(self, question: str, **arguments: object) -> str:
        return self.read(f"/api/{question}?data={urllib.parse.quote(json.dumps(arguments))}")

    def everything(self) -> str:
        """Return its pages, and all that its API tells of all tasks and workers."""
        tasks = json.loads(self.ask("task_list", status="", upstream_status=""))["response"]
        assert tasks
        told = [self.read("/"), self.read("/static/visualiser/index.html"), json.dumps(tasks)]
        told += [self.ask(question) for question in ("graph", "worker_list", "resource_list")]
        for task in tasks:
            questions = ("dep_graph", "inverse_dep_graph", "fetch_error", "get_task_status_message")
            told += [self.ask(question, task_id=task) for question in questions]
        return "\n".join(told)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)


def test_a_secret_is_nowhere(desk: Desk, server: CDCSServer) -> None:
    luigid = Luigid(desk.workshop.folder / "luigid")
    try:
        central = {"local_scheduler": "false", "scheduler_host": "127.0.0.1", "scheduler_port": luigid.port}
        (desk.workshop.folder / "logging.cfg").write_text(LOGS_ON_SCREEN)
        lines = [f"{name} = {value}" for name, value in {**central, "logging_conf_file": "logging.cfg"}.items()]
        (desk.workshop.folder / "central.cfg").write_text("\n".join(["[core]", *lines, ""]))
        desk.workshop.environment["LUIGI_CONFIG_PATH"] = "central.cfg"

        token = token_of_alice(server)
        basic = base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
        secrets = [PASSWORD, token, basic, "a-wr0ng-t0ken", "a wrong password"]
        environment = desk.workshop.environment
        seen = ""
        for task, options, given, code in (
            ("PublishRelease", desk.published(workers=2), {"USER": "alice", "PASSWORD": PASSWORD}, 0),
            ("FetchRelease", desk.options(workers=2), {"USER": "", "PASSWORD": "", "TOKEN": token}, 0),
            ("FetchRelease", desk.options(destination="x"), {"TOKEN": "a-wr0ng-t0ken"}, 30),
            ("CreateArchive", {"archive": server.base_url}, {"USER": "bob", "PASSWORD": "a wrong password"}, 30),
        ):
            environment |= {f"PIPELINE_{name}": value for name, value in {"TOKEN": "", **given}.items()}
            output, lines_of_processes = watched(desk.workshop.start(task, **options), code)
            assert task in lines_of_processes or not Path("/proc/self").exists()
            assert "urllib3.connectionpool" in output
            seen += output + lines_of_processes
        told = luigid.everything()
        assert "does not accept the token of the user in the environment variable" in told
        seen += told
    finally:
        luigid.stop()

    left = tree(desk.workshop.folder)
    assert {"luigid/state.pickle", "keyring.json"} & left.keys() == {"luigid/state.pickle"}
    assert any(path.startswith("cache/") for path in left)
    for secret in secrets:
        assert secret not in seen
        assert [path for path, data in left.items() if data is not None and secret.encode() in data] == []


def watched(process: "subprocess.Popen[str]", code: int) -> tuple[str, str]:
    """Return what a run writes, and the command lines of all its processes."""
    lines = set()
    with process:
        assert process.stdout
        os.set_blocking(process.stdout.fileno(), False)
        output = b""
        while process.poll() is None:
            lines |= command_lines(process.pid)
            select.select([process.stdout], [], [], 0.02)
            output += os.read(process.stdout.fileno(), 2**20) if select.select([process.stdout], [], [], 0)[0] else b""
        while data := os.read(process.stdout.fileno(), 2**20):
            output += data
    assert process.returncode == code, output.decode()
    return output.decode(), "\n".join(lines)


def command_lines(pid: int) -> set[str]:
    """Return the command lines of a process and of those that it started."""
    lines = set()
    with contextlib.suppress(OSError):
        lines.add(Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace"))
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            lines |= command_lines(int(child))
    return lines


def test_no_exception_holds_a_secret(
    monkeypatch: pytest.MonkeyPatch, config: LuigiConfigParser, server: CDCSServer
) -> None:
    from tests.file_keyring import BrokenKeyring

    own = keyring.get_keyring()
    keyring.set_keyring(BrokenKeyring())
    secret = "topsecret-ü"
    refusing = FakeSite(lambda visit, seen: visit.reply(403, {"detail": f"Invalid username/password. {secret}"}))
    try:
        with refusing as site:
            for url in (server.base_url, site.url):
                with pytest.raises(CredentialsError) as caught:
                    CDCSArchive(url, "alice", secret).missing_templates()
                assert secret not in everything_of(caught.value)
                monkeypatch.setattr(credentials, "_hosts", set())
                monkeypatch.setattr(credentials, "_only_host", [])
                monkeypatch.setenv("PIPELINE_TOKEN", secret.replace("ü", "u"))
                with pytest.raises(CredentialsError) as caught:
                    CDCSArchive(url).missing_templates()
                assert "topsecret" not in everything_of(caught.value)
                monkeypatch.delenv("PIPELINE_TOKEN")
    finally:
        keyring.set_keyring(own)


def everything_of(error: BaseException | None) -> str:
    """Return all that could be printed of an error and of those behind it."""
    texts, seen = [], set[int]()
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            texts += [repr(found), str(found), repr(found.args), repr(vars(found))]
            waiting += [found.__cause__, found.__context__]
    return "\n".join(texts)
