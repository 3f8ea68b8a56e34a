"""Plant secrets wherever a user may keep them, let everything go wrong, and search all that was written for them.

Users log in with passwords and tokens from the environment, credential files, a keyring, a prompt and, by mistake, a
URL; sites and proxies repeat what they were told; runs crash. All logs are at DEBUG, luigid schedules, reports are
written. Then every byte of every file, output, page and answer is searched, and while runs go on, all processes.

``python -m tests.attacks.secrets`` lets a site repeat secrets in each way in each place, which takes some minutes.
"""

import argparse
import contextlib
import io
import itertools
import json
import logging
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline import CDCSArchive
from pipeline.archives.cdcs import CDCSClient
from pipeline.errors import PipelineError
from tests.attacks.echoes import ECHOES, PLACES, EchoingProxy, echoing
from tests.attacks.searching import ProcessWatch, Search
from tests.cdcs import IMPATIENT, make_archive
from tests.cdcs_server import CDCSServer
from tests.cdcs_server.fake_cdcs import TOKEN, FakeCDCS
from tests.cdcs_server.server import User
from tests.forked import ForkedWorkshop
from tests.luigid import Scheduler
from tests.support import LOGS_ON_SCREEN, Outcome, Workshop
from tests.terminal import Terminal

# Passwords whose letters are spelled otherwise in JSON, in URLs, in HTML and by Python.
# In the middle of all of them, spelled alike everywhere. No two test runs have the same, because each looks at all
# processes.
_OWN = random.SystemRandom().randbytes(5).hex()
PASSWORD = f'ga"te\\wäy  <7>&%/+ {_OWN}'
SECRETS = {
    "what all of them hold": _OWN,
    "the password": PASSWORD,
    "the password in the keyring": f"k3yring-kept-ß-{_OWN}",
    "the typed password": f"typed at the prompt {_OWN}",
    "a wrong password": f"wr0ng pa'ssword & {_OWN}",
    "a wrong token": f"wr0ngt0ken{_OWN}",
    "the token of the hostile site": TOKEN,
    "the password in a URL": f"url-pass-w0rd-{_OWN}",
    "the password of a proxy": f"pr0xy-pass-w0rd-{_OWN}",
}
USERS = {
    "planted": SECRETS["the password"],
    "keeper": SECRETS["the password in the keyring"],
    "typist": SECRETS["the typed password"],
}


class DebuggedScheduler(Scheduler):
    """A luigid that logs everything, and runs that do."""

    def configure(self) -> None:
        """Write the configuration of luigid, and that of the runs."""
        super().configure()
        everything = self.folder / "logging.cfg"
        everything.write_text(LOGS_ON_SCREEN)
        for file in (self.folder / "luigi.cfg", self.workshop.folder / "central.cfg"):
            text = file.read_text()
            text = text if "[core]" in text else f"[core]\n{text}"
            file.write_text(text.replace("[core]", f"[core]\nlogging_conf_file = {everything}\nlog_level = DEBUG"))

    def everything(self) -> str:
        """Return all that its page and its API tell of all tasks and workers."""
        tasks = self.ask("task_list", status="", upstream_status="")
        questions = ("graph", "worker_list", "resource_list")
        told = [json.dumps(tasks), *(json.dumps(self.ask(question)) for question in questions)]
        for task in tasks:
            for question in ("dep_graph", "inverse_dep_graph", "fetch_error", "get_task_status_message"):
                told.append(json.dumps(self.ask(question, task_id=task)))
        return "\n".join(told)


class Vault:
    """A machine on which secrets are planted, and a search of all that is written on it.

    Parameters
    ----------
    folder : Path
        Where everything is written.
    server : CDCSServer
        A site where the `USERS` may publish.

    Attributes
    ----------
    leaks : list of str
        What the search found.
    runs : int
        How many tasks were run.
    """

    def __init__(self, folder: Path, server: CDCSServer) -> None:
        self.folder, self.server = folder, server
        self.token = token_of(server, "planted")
        self.search = Search({**SECRETS, "the token": self.token})
        self.leaks: list[str] = []
        self.runs = 0
        self._given = [folder / "keyring.json", folder / "credentials"]
        for name in ("home", "tmp", "work", "credentials"):
            (folder / name).mkdir()
        self.workshop = ForkedWorkshop(folder / "work")
        self.add("archives", f"url = http://planted:{SECRETS['the password in a URL']}@127.0.0.1:9")
        self._given.append(self._config)
        kept = {f"release-pipeline {server.base_url}": {"keeper": USERS["keeper"]}}
        (folder / "keyring.json").write_text(json.dumps(kept))
        environment = self.workshop.environment
        for name in [name for name in environment if name.startswith(("PIPELINE_", "XDG_")) or "proxy" in name.lower()]:
            del environment[name]
        environment |= {
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "PYTHON_KEYRING_BACKEND": "tests.file_keyring.FileKeyring",
            "TEST_KEYRING_FILE": str(folder / "keyring.json"),
            "PYTHONFAULTHANDLER": "1",
            "NO_PROXY": "127.0.0.1",
        }
        self.luigid = DebuggedScheduler(self.workshop)
        self.workshop.project(files={"a.csv": b"1,2\n", "b/c.csv": b"3,4\n" * 1000})

    def close(self) -> None:
        """End luigid."""
        self.luigid.close()

    @property
    def _config(self) -> Path:
        return self.folder / "work" / "luigi.cfg"

    def add(self, section: str, line: str) -> str:
        """Add a line to a section of the configuration, and return what that was before."""
        before = self._config.read_text()
        self._config.write_text(before.replace(f"[{section}]", f"[{section}]\n{line}"))
        return before

    def configure(self, text: str) -> None:
        """Replace the configuration."""
        self._config.write_text(text)

    # --- planting -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def given(self, files: Mapping[str, str] | None = None, **variables: str) -> Iterator[None]:
        """Give variables and credential files to the runs of a block."""
        before = dict(self.workshop.environment)
        for name, value in (files or {}).items():
            (self.folder / "credentials" / name).write_text(f"{value}\n")
        if files:
            variables["CREDENTIALS_DIRECTORY"] = str(self.folder / "credentials")
        self.workshop.environment |= variables
        try:
            yield
        finally:
            self.workshop.environment.clear()
            self.workshop.environment |= before
            for name in files or {}:
                (self.folder / "credentials" / name).unlink()

    # --- running --------------------------------------------------------------------------------------------------

    def publish(self, archive: str = "", **options: object) -> dict[str, Any]:
        """Return the options of a publishing."""
        release = {"title": "sample", "release_version": "0.1.0", "project_directory": "project"}
        return {"archive": archive or self.server.base_url, **release, "report_directory": "reports", **options}

    def fetch(self, archive: str = "", **options: object) -> dict[str, Any]:
        """Return the options of a fetching, into a new folder."""
        where = {"destination": f"fetched/{self.runs}", "report_directory": "reports"}
        return {"archive": archive or self.server.base_url, "title": "sample", **where, **options}

    def run(self, task: str, codes: tuple[int, ...], options: Mapping[str, Any], trouble: str = "") -> Outcome:
        """Run a task, whose exit code is to be one of some, and search what it prints."""
        outcome = self.workshop.run_with(trouble, task, **options)
        return self.ended(task, codes, outcome)

    def ended(self, what: str, codes: tuple[int, ...], outcome: Outcome) -> Outcome:
        """Search what a run printed."""
        self.runs += 1
        assert outcome.code in codes, outcome.output
        if self.search.found(outcome.output):
            for line in outcome.output.splitlines():
                self.leaks += [f"output of run {self.runs}, {what}: {leak}: {line}" for leak in self.search.found(line)]
        return outcome

    def look_everywhere(self) -> list[str]:
        """Search all that was written, and what luigid tells; return all leaks that were found until now."""
        self.leaks += [f"luigid: {leak}" for leak in self.search.found(self.luigid.everything())]
        self.luigid.stop(signal.SIGTERM)
        self.leaks += self.search.in_files(self.folder, but=self._given)
        for file in ("access.log", "server.log"):
            self.leaks += [f"{file}: {leak}" for leak in self.search.found((self.server.folder / file).read_bytes())]
        self.leaks += [f"records: {leak}" for leak in self.search.found(_published(self.server))]
        self.luigid.start()
        found, self.leaks = self.leaks, []
        return list(dict.fromkeys(found))


def token_of(server: CDCSServer, user: str) -> str:
    """Return a token of a user."""
    client = CDCSArchive(server.base_url, user, USERS[user]).curator
    client.core_settings()
    return str(client._token)


def _published(server: CDCSServer) -> str:
    """Return all records and names of blobs of a site."""
    client = CDCSArchive(server.base_url, "planted", PASSWORD).curator
    records = [
        str(data)
        for title in ("Release", "BlobMetadata")
        for data in client.query(client.template_ids(title), {}, None)
    ]
    return "\n".join([*records, *map(str, client.list_own_blobs())])


@contextlib.contextmanager
def a_vault(folder: Path) -> Iterator[Vault]:
    """Start a site with the users of this attack, and a luigid."""
    with CDCSServer(folder / "cdcs") as server:
        make_archive(server)
        server.manage("seed", [User(name, password, publishes=True)._asdict() for name, password in USERS.items()])
        (folder / "machine").mkdir()
        with contextlib.closing(Vault(folder / "machine", server)) as vault:
            yield vault


# --- what is done -----------------------------------------------------------------------------------------------------


def work_with_a_site(vault: Vault) -> None:
    """Publish, fetch, mirror and audit, with secrets from everywhere; each of them once wrong."""
    url, wrong = vault.server.base_url, SECRETS["a wrong password"]
    with vault.given(PIPELINE_USER="planted", PIPELINE_PASSWORD=PASSWORD):
        vault.run("PublishRelease", (0,), vault.publish(workers=2))
        vault.run("CreateArchive", (0,), {"archive": url})
    with vault.given({"PIPELINE_USER": "planted", "PIPELINE_PASSWORD": PASSWORD}):
        vault.run("FetchRelease", (0,), vault.fetch())
        mirror = {"source": url, "destination": "mirror", "report_directory": "reports"}
        vault.run("CreateArchive", (0,), {"archive": "mirror"})
        vault.run("MirrorArchive", (0,), mirror)
    with vault.given(PIPELINE_TOKEN=vault.token):
        _damage(vault)
        audit = {"archive": url, "repair_from": "mirror", "report_directory": "reports"}
        vault.run("AuditArchive", (0, 30), audit)
    with vault.given({"PIPELINE_TOKEN": vault.token}):
        vault.run("MirrorRelease", (0,), {**mirror, "title": "sample", "report_directory": None})
    vault.run("FetchRelease", (0,), vault.fetch(user="keeper"))
    with vault.given(PIPELINE_USER="planted", PIPELINE_PASSWORD=wrong):
        vault.run("FetchRelease", (30,), vault.fetch())
    with vault.given({"PIPELINE_TOKEN": SECRETS["a wrong token"]}):
        vault.run("PublishRelease", (30,), vault.publish(release_version="0.2.0"))


def _damage(vault: Vault) -> None:
    for file in (vault.server.folder / "media" / "blob").rglob("*.csv"):
        file.write_bytes(file.read_bytes()[::-1])


def type_at_a_prompt(vault: Vault) -> None:
    """Type a wrong password, then the right one, which the keyring gets."""
    command = Workshop.command(vault.workshop, "FetchRelease", **vault.fetch(user="typist"))
    terminal = Terminal(command, vault.workshop.folder, vault.workshop.environment)
    for password in (SECRETS["a wrong password"], USERS["typist"]):
        terminal.wait_for("Password of typist")
        terminal.type(password)
    vault.ended("FetchRelease at a terminal", (0,), terminal.end())
    assert USERS["typist"] in (vault.folder / "keyring.json").read_text()


def put_it_into_a_url(vault: Vault, most: int = 100) -> None:
    """Give passwords where an address belongs, as one does once."""
    secret = SECRETS["the password in a URL"]
    forms = ("http://planted:%s@127.0.0.1:9", "http://planted:x/%s@127.0.0.1:9", "http://planted:#%s@127.0.0.1:9/")
    urls = [
        form.replace("%s", secret) for form in (*forms, "https://planted:?%s@cdcs.example.org", "http://%s@[::1]:9")
    ]
    for url in [*urls[:most], "url"]:
        vault.run("PublishRelease", (30,), vault.publish(url))
    vault.run("FetchRelease", (30,), vault.fetch(urls[1]))
    vault.run("MirrorArchive", (30,), {"source": urls[0], "destination": urls[1], "report_directory": "reports"})
    vault.run("AuditArchive", (30,), {"archive": "mirror", "repair_from": urls[2], "report_directory": "reports"})
    vault.run("CreateArchive", (30,), {"archive": urls[1]})
    for broken in ("%20", "%(x)s", "${NO_SUCH_VARIABLE}")[:most]:
        before = vault.add("archives", f"broken = http://planted:x{broken}{secret}@127.0.0.1:9")
        vault.run("PublishRelease", (30,), vault.publish("broken"))
        vault.run("CreateArchive", (30,), {"archive": "broken"})
        vault.configure(before)


def go_through_a_proxy(vault: Vault, echoes: list[str]) -> None:
    """Let a proxy repeat who one is to it, or not be there."""
    secret = SECRETS["the password of a proxy"]
    vault.add("pipeline", "plain_http_hosts = cdcs.example.org")
    given = {"PIPELINE_USER": "planted", "PIPELINE_PASSWORD": PASSWORD}
    sites = ("http://cdcs.example.org", "https://cdcs.example.org")
    with EchoingProxy() as proxy:
        line = proxy.url.replace("http://", f"http://planted:{secret}@")
        for name, site in itertools.product(echoes, sites):
            proxy.answer_with(ECHOES[name], [secret, PASSWORD])
            with vault.given(**given, http_proxy=line, HTTPS_PROXY=line):
                vault.run("FetchRelease", (30,), vault.fetch(site), IMPATIENT)
    with vault.given(**given, http_proxy=line, https_proxy=f"http://planted:{secret}@not a host"):
        for site in sites:
            vault.run("FetchRelease", (30,), vault.fetch(site), IMPATIENT)


def meet_a_site_that_echoes(vault: Vault, pairs: Iterable[tuple[str, tuple[str, str]]]) -> None:
    """Publish on a site that repeats in one way and one place what it was told, and fetch from it."""
    for name, (method, path) in pairs:
        with FakeCDCS() as site, vault.given(PIPELINE_USER="planted", PIPELINE_PASSWORD=PASSWORD):
            if path == "/pid/":
                vault.run("PublishRelease", (0,), vault.publish(site.url), IMPATIENT)
            site.lie(method, path, echoing(site, ECHOES[name], [PASSWORD]))
            task, options = ("FetchRelease", vault.fetch) if path == "/pid/" else ("PublishRelease", vault.publish)
            vault.run(task, (0, 30), options(site.url), IMPATIENT)
            # What came instead of a blob is kept until it is verified, whatever it is.
            for part in (vault.workshop.folder / "fetched").rglob("*.part"):
                part.unlink()


def ask_a_site_that_echoes(search: Search) -> list[str]:
    """Ask in a script a site that repeats in each way what it was told, and return what errors and logs leak."""
    leaks = []
    logged = io.StringIO()
    handler, root = logging.StreamHandler(logged), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        for name, echo in ECHOES.items():
            with FakeCDCS() as site:
                site.lie("GET", "/rest/workspace/", echoing(site, echo, [PASSWORD]))
                client = CDCSClient(
                    site.url, user="planted", password=PASSWORD, attempts=2, sleep=lambda seconds: None, read_timeout=5
                )
                try:
                    client.workspace_id("Global Public Workspace")
                except PipelineError:
                    logged.write(traceback.format_exc())
            leaks += [f"{name}: {leak}" for leak in search.found(logged.getvalue())]
            logged.seek(0)
            logged.truncate()
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    return leaks


# Where a run crashes it knows the password and the token, and is about to send them.
_CRASH = """
from pipeline.archives.cdcs.http import Site
send = Site._exchange
def crash(self, method, url, headers, content, public, allowance):
    secrets = (self._password, self._token, self._authorization() if not public else None)
    if not public:
        {crash}
    return send(self, method, url, headers, content, public, allowance)
Site._exchange = crash
"""
_CRASHES = {
    "a traceback": "raise RuntimeError('forced')",
    "an error of the system": "raise OSError(5, 'forced')",
    "a killed process": "import os; os.kill(os.getpid(), 9)",
    "an aborted process": "import os; os.abort()",
    "a dump of all threads": "import faulthandler; faulthandler.dump_traceback()",
    "a broken memory": "import faulthandler; faulthandler._sigsegv()",
}


def crash(vault: Vault, ways: Iterable[str] = tuple(_CRASHES)) -> None:
    """Let runs die in some ways while they hold secrets, where the system would write core files."""
    for way in ways:
        with vault.given(PIPELINE_USER="planted", PIPELINE_PASSWORD=PASSWORD):
            _start_to_crash(vault, _CRASHES[way], vault.publish(release_version=f"7.0.{vault.runs}"))


def _start_to_crash(vault: Vault, how: str, options: dict[str, Any]) -> None:
    folder = vault.folder / "crash"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_CRASH.format(crash=how))
    with vault.given(PYTHONPATH=f"{vault.workshop.environment['PYTHONPATH']}:{folder}", PYTHONDONTWRITEBYTECODE="1"):
        limits = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (limits[1], limits[1]))
        try:
            # A process of its own: a forked one would have the memory of this one.
            outcome = Workshop.run(vault.workshop, "PublishRelease", **options)
        finally:
            resource.setrlimit(resource.RLIMIT_CORE, limits)
    codes = (0, 30, 35, 40, -signal.SIGKILL, -signal.SIGABRT, -signal.SIGSEGV)
    vault.ended(f"PublishRelease that ends by {how}", codes, outcome)


def look_at_processes(vault: Vault) -> None:
    """Look at all processes while a run has its password from a keyring, and another from its environment."""
    with ProcessWatch(vault.search) as watch:
        outcome = Workshop.run(vault.workshop, "FetchRelease", **vault.fetch(user="keeper", workers=2))
        vault.ended("FetchRelease with a keyring", (0,), outcome)
    own = {"PIPELINE_USER": "planted", "PIPELINE_PASSWORD": PASSWORD}
    with ProcessWatch(vault.search, own) as second, vault.given(**own):
        outcome = Workshop.run(vault.workshop, "PublishRelease", **vault.publish(release_version="0.3.0", workers=2))
        vault.ended("PublishRelease with a variable", (0,), outcome)
    assert len(watch.processes) > 2
    vault.leaks += sorted(watch.leaks | second.leaks)


def main() -> int:
    """Attack in every way in every place, and print figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.secrets", description=__doc__)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long sites may repeat secrets")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    asked = parser.parse_args()
    pairs = list(itertools.product(ECHOES, PLACES))
    random.Random(asked.seed).shuffle(pairs)
    with tempfile.TemporaryDirectory() as folder, a_vault(Path(folder)) as vault:
        for attack in (work_with_a_site, type_at_a_prompt, put_it_into_a_url, crash, look_at_processes):
            attack(vault)
        vault.leaks += ask_a_site_that_echoes(vault.search)
        go_through_a_proxy(vault, list(ECHOES))
        end = time.monotonic() + asked.seconds
        tried = 0
        for pair in pairs:
            if time.monotonic() > end:
                break
            before = len(vault.leaks)
            meet_a_site_that_echoes(vault, [pair])
            tried += 1
            for leak in vault.leaks[before:]:
                print(f"{pair}: {leak}", flush=True)
        leaks = vault.look_everywhere()
        for leak in leaks:
            print(f"LEAK {leak}")
        print(
            f"seed {asked.seed}: {vault.runs} runs, {tried} of {len(pairs)} echoes, {vault.search.files} files and "
            f"{vault.search.nbytes} bytes searched, {len(leaks)} leaks"
        )
    return int(bool(leaks))


if __name__ == "__main__":
    sys.exit(main())
