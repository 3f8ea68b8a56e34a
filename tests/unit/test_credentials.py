"""Where user names, passwords and tokens come from, in which order, and for whom."""

import contextlib
import getpass
import io
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import keyring
import pytest
from luigi.configuration.cfg_parser import LuigiConfigParser

from pipeline import credentials
from pipeline.credentials import GIVEN, Login, LoginRefusedError, announce_hosts, find_login, get_credentials, log_in
from pipeline.errors import CredentialsError, SettingsError
from pipeline.settings import may_use_plain_http, normalize_host, read_settings, transfer_limit, trusted_bundle
from tests.cdcs_server.fake import CERTIFICATE
from tests.file_keyring import BrokenKeyring, FileKeyring, ForgetfulKeyring
from tests.support import ROOT

HOST, OTHER = "https://archive.example.org", "https://other.example.org"
Configure = Callable[..., None]


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileKeyring]:
    """A keyring of this test, in a process that has asked for nothing yet and whose environment holds nothing."""
    for name in ("USER", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"PIPELINE_{name}", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setenv("TEST_KEYRING_FILE", str(tmp_path / "keyring.json"))
    monkeypatch.setattr(credentials, "_hosts", set())
    monkeypatch.setattr(credentials, "_only_host", [])
    monkeypatch.setattr(credentials, "_keyring_failed", [])
    before, mine = keyring.get_keyring(), FileKeyring()
    keyring.set_keyring(mine)
    yield mine
    keyring.set_keyring(before)


@pytest.fixture(autouse=True)
def configure(monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Write into a luigi.cfg that is empty otherwise."""
    config = LuigiConfigParser()
    monkeypatch.setattr(LuigiConfigParser, "_instance", config)

    def configure(section: str, **values: str) -> None:
        for name, value in values.items():
            config.set(section, name, value)

    return configure


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of systemd's credential files."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder


class Terminal(io.StringIO):
    """Somebody sits here."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What somebody at a terminal is asked for, who answers "ada" and "engine"."""
    prompts: list[str] = []
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda prompt="": prompts.append(prompt) or "ada")
    monkeypatch.setattr(getpass, "getpass", lambda prompt="": prompts.append(prompt) or "engine")
    return prompts


def refusal(host: str = HOST, user: str | None = None) -> str:
    """Return what is said where nothing can be found."""
    with pytest.raises(CredentialsError) as caught:
        find_login(host, user)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the order --------------------------------------------------------------------------------------------------------


def test_what_is_given_wins_over_all_and_is_stored(
    monkeypatch: pytest.MonkeyPatch, files: Path, kept: FileKeyring
) -> None:
    monkeypatch.setenv("PIPELINE_PASSWORD", "of the environment")
    monkeypatch.setenv("PIPELINE_TOKEN", "of-the-environment")
    (files / "PIPELINE_PASSWORD").write_text("of a file")
    kept.set_password(f"release-pipeline {HOST}", "ada", "of the keyring")
    assert get_credentials(HOST, "ada", "given") == ("ada", "given")
    assert kept.content() == {f"release-pipeline {HOST}": {"ada": "given"}}
    login = find_login(HOST, "ada", "given")
    assert (login.source, login.password, login.token) == (GIVEN, "given", None)


def test_the_environment_comes_before_files_and_those_before_the_keyring(
    monkeypatch: pytest.MonkeyPatch, files: Path, kept: FileKeyring
) -> None:
    kept.set_password(f"release-pipeline {HOST}", "ada", "of the keyring")
    assert get_credentials(HOST, "ada") == ("ada", "of the keyring")
    (files / "PIPELINE_PASSWORD").write_text("of a file\n")
    assert get_credentials(HOST, "ada") == ("ada", "of a file")
    monkeypatch.setenv("PIPELINE_PASSWORD", "of the environment")
    assert get_credentials(HOST, "ada") == ("ada", "of the environment")
    assert list(kept.content().values()) == [{"ada": "of the keyring"}]


def test_a_token_is_preferred_to_a_password_from_the_same_place(monkeypatch: pytest.MonkeyPatch, files: Path) -> None:
    (files / "PIPELINE_TOKEN").write_text("0ff11e\n")
    monkeypatch.setenv("PIPELINE_USER", "ada")
    assert find_login(HOST).token == "0ff11e"
    monkeypatch.setenv("PIPELINE_PASSWORD", "engine")
    assert (find_login(HOST).token, find_login(HOST).password) == (None, "engine")
    monkeypatch.setenv("PIPELINE_TOKEN", "0f1e")
    assert (find_login(HOST).token, find_login(HOST).user) == ("0f1e", "ada")
    assert get_credentials(HOST) == ("ada", "engine"), "who asks for a password gets one"


def test_a_token_needs_no_user_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_TOKEN", "0f1e")
    assert (find_login(HOST).token, find_login(HOST).user) == ("0f1e", None)


def test_the_user_name_may_come_from_elsewhere_than_the_password(
    monkeypatch: pytest.MonkeyPatch, files: Path, kept: FileKeyring
) -> None:
    kept.set_password(f"release-pipeline {HOST}", "ada", "of the keyring")
    assert get_credentials(HOST) == ("ada", "of the keyring")
    monkeypatch.setenv("PIPELINE_USER", "grace")
    (files / "PIPELINE_PASSWORD").write_text("hopper")
    assert get_credentials(HOST) == ("grace", "hopper")
    assert get_credentials(HOST, "alan") == ("alan", "hopper")


def test_a_secret_beside_a_user_name_is_for_that_user_only(monkeypatch: pytest.MonkeyPatch, files: Path) -> None:
    monkeypatch.setenv("PIPELINE_USER", "ada")
    (files / "PIPELINE_USER").write_text("grace")
    (files / "PIPELINE_PASSWORD").write_text("hopper")
    assert "no password of 'ada'" in refusal()
    assert "what is set already is for 'grace'" in refusal()
    assert get_credentials(HOST, "grace") == ("grace", "hopper")
    monkeypatch.setenv("PIPELINE_TOKEN", "0f1e")
    assert find_login(HOST).token == "0f1e"
    assert find_login(HOST, "grace").token is None
    with pytest.raises(CredentialsError) as caught:
        get_credentials(HOST)
    assert "is for 'ada'" not in str(caught.value), "it is a token that ada has, and no password"


@pytest.mark.parametrize("empty", ["", None])
def test_what_is_empty_is_not_there(monkeypatch: pytest.MonkeyPatch, files: Path, empty: str | None) -> None:
    for name in ("PIPELINE_USER", "PIPELINE_PASSWORD", "PIPELINE_TOKEN"):
        monkeypatch.setenv(name, "")
        (files / name).write_text("\n")
    with pytest.raises(CredentialsError, match="There is no user name"):
        get_credentials(HOST, empty, empty)


def test_without_anything_one_sentence_tells_how_to_provide_it() -> None:
    assert refusal() == (
        f"There is no user name for {HOST}, and nobody to ask; set PIPELINE_USER and PIPELINE_PASSWORD, "
        "or PIPELINE_TOKEN, or run once in a terminal to store them."
    )
    assert refusal(user="ada").startswith(f"There is no password of 'ada' for {HOST}, and nobody to ask; set ")


def test_a_password_without_a_user_name_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_PASSWORD", "engine")
    assert refusal().startswith("There is no user name")
    with pytest.raises(CredentialsError, match="There is no user name") as caught:
        get_credentials(HOST, None, "topsecret")
    assert "topsecret" not in str(caught.value)


# --- one host, or several ---------------------------------------------------------------------------------------------


def test_variables_and_files_with_an_alias_are_for_its_site_however_that_is_written(
    monkeypatch: pytest.MonkeyPatch, files: Path, configure: Configure
) -> None:
    configure("archives", lab_9a="https://Archive.example.org:443/", elsewhere=OTHER, folder="/srv/archive")
    monkeypatch.setenv("PIPELINE_USER_LAB_9A", "ada")
    monkeypatch.setenv("PIPELINE_PASSWORD_LAB_9A", "engine")
    (files / "PIPELINE_TOKEN_ELSEWHERE").write_text("0f1e\n")
    for written in (HOST, f"{HOST}/", "HTTPS://ARCHIVE.example.org", "archive.example.org"):
        assert get_credentials(written) == ("ada", "engine")
    assert find_login(OTHER).token == "0f1e"
    assert "PIPELINE_TOKEN_ELSEWHERE" in find_login(OTHER).source.where
    assert "no user name" in refusal("https://third.example.org")


@pytest.mark.parametrize("alias", ["lab-9.a", "Lab 9/A", "lab_9_ä"])
def test_in_the_name_of_a_variable_only_letters_and_digits_of_an_alias_are_kept(
    monkeypatch: pytest.MonkeyPatch, alias: str
) -> None:
    monkeypatch.setattr(credentials, "read_aliases", lambda: {alias: HOST})
    monkeypatch.setenv(f"PIPELINE_TOKEN_LAB_9_{'_' if alias.endswith('ä') else 'A'}", "0f1e")
    assert find_login(HOST).token == "0f1e"


def test_the_alias_counts_more_than_the_plain_name(monkeypatch: pytest.MonkeyPatch, configure: Configure) -> None:
    configure("archives", lab=HOST)
    monkeypatch.setenv("PIPELINE_USER", "ada")
    monkeypatch.setenv("PIPELINE_PASSWORD", "plain")
    monkeypatch.setenv("PIPELINE_PASSWORD_LAB", "of the lab")
    assert get_credentials(HOST) == ("ada", "of the lab")


def test_aliases_of_different_sites_may_not_share_a_variable(configure: Configure) -> None:
    configure("archives", lab_a=HOST, LAB_A=OTHER)
    with pytest.raises(SettingsError, match=r"\[archives\] .*lab_a and LAB_A are different sites, .*; rename one"):
        find_login(HOST)
    configure("archives", LAB_A=f"{HOST}/")
    refusal()


def test_an_unreadable_alias_is_one_sentence(configure: Configure) -> None:
    configure("archives", lab="https://${NO_SUCH_VARIABLE}.example.org")
    with pytest.raises(SettingsError, match=r"\[archives\] lab in luigi.cfg cannot be read: .*NO_SUCH_VARIABLE"):
        find_login(HOST)


@pytest.mark.parametrize("password", ["open%(x)ssesame", "sesame${NO_SUCH_VARIABLE}"])
def test_an_unreadable_alias_does_not_show_what_it_holds(configure: Configure, password: str) -> None:
    configure("archives", lab=f"https://alice:{password}@cdcs.example.org")
    with pytest.raises(SettingsError, match=r"lab in luigi.cfg cannot be read: (a % must be|.*NO_SUCH_V)") as caught:
        find_login(HOST)
    assert "sesame" not in str(caught.value)


def test_plain_names_are_used_for_the_only_host_and_never_for_a_second(
    monkeypatch: pytest.MonkeyPatch, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PIPELINE_USER", "ada")
    monkeypatch.setenv("PIPELINE_PASSWORD", "engine")
    (files / "PIPELINE_TOKEN").write_text("0f1e")
    assert get_credentials(HOST) == ("ada", "engine")
    said = refusal(OTHER, "ada")
    assert "set PIPELINE_USER_<ALIAS> and PIPELINE_PASSWORD_<ALIAS>, or PIPELINE_TOKEN_<ALIAS>" in said
    assert "the environment variable PIPELINE_PASSWORD and the credential file PIPELINE_TOKEN cannot be used" in said
    assert "this run talks to several hosts" in said
    assert get_credentials(f"{HOST}/") == ("ada", "engine"), "the first host is known to own them"


def test_plain_names_are_for_nobody_when_two_hosts_are_announced(
    monkeypatch: pytest.MonkeyPatch, configure: Configure, kept: FileKeyring, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    configure("archives", lab=HOST)
    announce_hosts(HOST, f"{OTHER}/")
    monkeypatch.setenv("PIPELINE_TOKEN", "0f1e")
    assert "set PIPELINE_USER_LAB and PIPELINE_PASSWORD_LAB, or PIPELINE_TOKEN_LAB, or" in refusal(HOST)
    assert "PIPELINE_TOKEN cannot be used" in refusal(OTHER)
    kept.set_password(f"release-pipeline {OTHER}", "ada", "engine")
    assert get_credentials(OTHER) == ("ada", "engine")
    assert f"For {OTHER}, the environment variable PIPELINE_TOKEN cannot be used" in caplog.text
    monkeypatch.setenv("PIPELINE_TOKEN_LAB", "0ff1ce")
    assert find_login(HOST).token == "0ff1ce"


def test_two_folders_of_one_server_and_two_ports_are_different_hosts() -> None:
    addresses = [HOST, f"{HOST}/a", f"{HOST}:8443", "http://archive.example.org", "http://[::1]:80", "https://[::1]"]
    assert len(set(map(normalize_host, addresses))) == len(addresses)
    assert normalize_host("http://[::1]:80/") == "http://[::1]"
    assert normalize_host("https://u:p@h:99999") == "https://u:p@h:99999"


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_the_line_end_of_a_credential_file_does_not_belong_to_the_secret(files: Path, ending: str) -> None:
    (files / "PIPELINE_USER").write_bytes(f"ada{ending}".encode())
    (files / "PIPELINE_PASSWORD").write_bytes(f" Größe {ending}".encode())
    assert get_credentials(HOST) == ("ada", " Größe ")


def test_a_credential_file_that_cannot_be_read_is_one_sentence(files: Path) -> None:
    file = files / "PIPELINE_PASSWORD"
    for content in (b"topsecret \xff", b"topsecret" * 10_000):
        file.write_bytes(content)
        said = refusal()
        assert (
            said
            == f"The credential file {file} cannot be used: it is not a short text in UTF-8; correct it or remove it."
        )
    file.unlink()
    file.mkdir()
    assert f"The credential file {file} cannot be used: it is not a regular file;" in refusal()
    file.rmdir()
    file.symlink_to(file)
    assert f"The credential file {file} cannot be used: too many levels of symbolic links;" in refusal()


def test_a_variable_that_is_no_text_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_PASSWORD", "topsecret \udcff")
    assert refusal() == "The environment variable PIPELINE_PASSWORD is not valid UTF-8; set it again."
    monkeypatch.delenv("PIPELINE_PASSWORD")
    with pytest.raises(CredentialsError, match="not valid Unicode") as caught:
        get_credentials(HOST, "ada", "topsecret \udcff")
    assert "topsecret" not in str(caught.value)


# --- keyring ----------------------------------------------------------------------------------------------------------


def test_hosts_and_users_are_kept_apart(kept: FileKeyring) -> None:
    get_credentials(f"{HOST}/", "ada", "one")
    get_credentials(HOST, "grace", "two")
    get_credentials(OTHER, "ada", "three")
    assert get_credentials(HOST, "ada") == ("ada", "one")
    assert get_credentials(HOST, "grace") == ("grace", "two")
    assert get_credentials(OTHER, "ada") == ("ada", "three")
    assert get_credentials(HOST, "ada", "newer") == get_credentials(HOST, "ada") == ("ada", "newer")


@pytest.mark.parametrize("kind", [keyring.backends.fail.Keyring, BrokenKeyring])
def test_everything_else_works_without_a_keyring_which_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
    kind: type[keyring.backend.KeyringBackend],
    caplog: pytest.LogCaptureFixture,
    asked: list[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    keyring.set_keyring(kind())
    monkeypatch.setenv("PIPELINE_TOKEN", "0f1e")
    find_login(HOST)
    assert caplog.text == "", "nobody needs it here"
    assert get_credentials(HOST, "ada", "given") == ("ada", "given")
    assert get_credentials(HOST) == ("ada", "engine")
    assert caplog.text.count("no usable system keyring") == 1
    assert "given" not in caplog.text
    assert "engine" not in caplog.text


def test_a_keyring_that_keeps_nothing_new_does_not_stop_anything(caplog: pytest.LogCaptureFixture) -> None:
    keyring.set_keyring(ForgetfulKeyring())
    assert get_credentials(HOST, "ada", "given") == ("ada", "given")
    assert "no usable system keyring here (RuntimeError)" in caplog.text
    assert "given" not in caplog.text


def test_a_keyring_that_cannot_even_be_imported_is_none(tmp_path: Path) -> None:
    script = (
        "from pipeline.credentials import get_credentials; print(*get_credentials('h.example.org', 'ada', 'given'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PYTHON_KEYRING_BACKEND": "no.such.module", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "ada given\n", done.stderr
    assert done.stderr.count("\n") == 1
    assert "no usable system keyring here (ModuleNotFoundError)" in done.stderr


# --- prompt -----------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_asked_for_once_and_stored(kept: FileKeyring, asked: list[str]) -> None:
    assert get_credentials(HOST) == ("ada", "engine")
    assert asked == [f"User name for {HOST}: ", f"Password of ada for {HOST}: "]
    assert get_credentials(HOST) == get_credentials(HOST, "ada") == ("ada", "engine")
    assert len(asked) == 2, "what is stored is not asked for"
    assert get_credentials(HOST, "grace") == ("grace", "engine")
    assert asked[2:] == [f"Password of grace for {HOST}: "]


def test_a_user_without_an_answer_is_told_other_ways(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(prompt: str = "") -> str:
        raise EOFError

    monkeypatch.setattr(getpass, "getpass", no_answer)
    assert "no password of 'ada' for https://archive.example.org, and nobody answered; set PIPELINE_USER" in refusal()
    monkeypatch.setattr("builtins.input", no_answer)
    assert "no user name for https://archive.example.org, and nobody answered" in refusal()


def test_a_terminal_that_cannot_hide_a_password_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("shown on the screen\n"))
    monkeypatch.setattr("os.open", _no_terminal)
    assert "no password of 'ada'" in refusal(user="ada")


def _no_terminal(*arguments: object) -> int:
    raise OSError("no terminal")


@pytest.mark.parametrize("stdin", [None, io.StringIO("ada\nengine\n")])
def test_nobody_is_asked_where_there_is_no_terminal(
    stdin: io.StringIO | None, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", stdin)
    assert "nobody to ask" in refusal()
    with contextlib.closing(io.StringIO()) as closed:
        monkeypatch.setattr("sys.stdin", closed)
    assert "nobody to ask" in refusal()
    assert asked == []


# --- wrong ones -------------------------------------------------------------------------------------------------------


def only(right: str) -> Callable[[Login], Login]:
    """Return a site that lets one password in."""

    def connect(login: Login) -> Login:
        if login.password != right:
            raise LoginRefusedError("The site does not accept it", login.source.remedy)
        return login

    return connect


def test_a_wrong_stored_password_is_asked_for_again_and_replaced(kept: FileKeyring, asked: list[str]) -> None:
    get_credentials(HOST, "grace", "old")
    login = log_in(HOST, None, None, only("engine"))
    assert (login.user, login.password) == ("grace", "engine")
    assert asked == [f"Password of grace for {HOST}: "]
    assert kept.content() == {f"release-pipeline {HOST}": {"grace": "engine"}}


def test_a_wrong_typed_password_is_asked_for_three_times_and_never_stored(kept: FileKeyring, asked: list[str]) -> None:
    with pytest.raises(LoginRefusedError, match="type the right one"):
        log_in(HOST, None, None, only("something else"))
    assert asked == [f"User name for {HOST}: ", f"Password of ada for {HOST}: "] * 3
    assert kept.content() == {}


def test_without_a_terminal_a_wrong_stored_password_is_an_error_and_a_given_one_replaces_it(kept: FileKeyring) -> None:
    get_credentials(HOST, "ada", "old")
    with pytest.raises(LoginRefusedError, match="run once in a terminal to be asked for the right one, or set PIPE"):
        log_in(HOST, None, None, only("engine"))
    assert log_in(HOST, "ada", "engine", only("engine")).password == "engine"
    assert log_in(HOST, None, None, only("engine")).user == "ada"


def test_a_wrong_one_of_the_environment_is_not_asked_for(monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    monkeypatch.setenv("PIPELINE_PASSWORD", "wrong")
    with pytest.raises(LoginRefusedError, match="correct it there, or ask the site"):
        log_in(HOST, "ada", None, only("engine"))
    assert asked == []


def test_a_login_shows_no_secret() -> None:
    shown = repr(Login("ada", GIVEN, password="engine", token="0f1e"))
    assert "ada" in shown
    assert "engine" not in shown
    assert "0f1e" not in shown


# --- settings ---------------------------------------------------------------------------------------------------------


def test_a_bundle_of_certificates_is_used_only_when_it_is_one(configure: Configure, tmp_path: Path) -> None:
    assert trusted_bundle(read_settings()) is None
    configure("pipeline", ca_bundle=str(CERTIFICATE))
    assert trusted_bundle(read_settings()) == str(CERTIFICATE)
    (tmp_path / "empty.pem").touch()
    for path, problem in (
        (tmp_path / "nowhere.pem", "no such file or directory"),
        (tmp_path, "is a directory"),
        (tmp_path / "empty.pem", "there is no certificate in it, in PEM format"),
    ):
        configure("pipeline", ca_bundle=str(path))
        with pytest.raises(SettingsError) as caught:
            trusted_bundle(read_settings())
        assert str(caught.value) == (
            f"[pipeline] ca_bundle = {path} in luigi.cfg cannot be used: {problem}; correct it."
        )


@pytest.mark.parametrize("limit", ["many", "0", "-1", "2.5"])
def test_a_limit_of_transfers_that_is_no_number_is_refused(configure: Configure, limit: str) -> None:
    configure("resources", **{"cdcs.example.org": limit})
    assert transfer_limit("other.example.org") is None
    with pytest.raises(
        SettingsError, match=rf"^\[resources\] cdcs.example.org = {limit} in luigi.cfg is no number above"
    ):
        transfer_limit("cdcs.example.org")


def test_plain_http_is_for_the_hosts_that_are_named(configure: Configure) -> None:
    configure("pipeline", plain_http_hosts="cdcs.lab, Other.Lab,10.0.0.7, fd00::7")
    for allowed in (
        "http://cdcs.lab:8000",
        "http://CDCS.lab/x",
        "http://other.lab",
        "http://10.0.0.7",
        "http://[fd00::7]",
    ):
        assert may_use_plain_http(read_settings(), allowed)
    for refused in ("http://lab", "http://x.cdcs.lab", "http://10.0.0.70"):
        assert not may_use_plain_http(read_settings(), refused)
    for wrong in ("http://cdcs.lab", "cdcs.lab:8000", "*.lab", "a b"):
        configure("pipeline", plain_http_hosts=f"good.lab,{wrong}")
        with pytest.raises(SettingsError, match="is no host name; write names only"):
            may_use_plain_http(read_settings(), HOST)
