"""A keyring that keeps its passwords in a file: ``PYTHON_KEYRING_BACKEND=tests.file_keyring.FileKeyring``."""

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.credentials import SimpleCredential


class FileKeyring(KeyringBackend):
    """Keeps passwords in the file that ``TEST_KEYRING_FILE`` names, and knows users as a desktop's keyring does."""

    priority = 1  # type: ignore[assignment]

    @property
    def _file(self) -> Path:
        return Path(os.environ["TEST_KEYRING_FILE"])

    def content(self) -> dict[str, dict[str, str]]:
        """Return everything that is kept: service to user to password."""
        return json.loads(self._file.read_text("utf-8")) if self._file.exists() else {}  # type: ignore[no-any-return]

    def get_password(self, service: str, username: str) -> str | None:
        return self.content().get(service, {}).get(username)

    def get_credential(self, service: str, username: str | None) -> SimpleCredential | None:
        for user, password in self.content().get(service, {}).items():
            if username in (None, user):
                return SimpleCredential(user, password)
        return None

    def set_password(self, service: str, username: str, password: str) -> None:
        content = self.content()
        content.setdefault(service, {})[username] = password
        self._file.write_text(json.dumps(content), "utf-8")

    def delete_password(self, service: str, username: str) -> None:
        content = self.content()
        del content[service][username]
        self._file.write_text(json.dumps(content), "utf-8")


class BrokenKeyring(FileKeyring):
    """Fails as no documentation says, and repeats in its error what it was given."""

    def get_password(self, service: str, username: str) -> str | None:
        raise RuntimeError(f"no bus for {username}")

    def get_credential(self, service: str, username: str | None) -> SimpleCredential | None:
        raise OSError("no bus")

    def set_password(self, service: str, username: str, password: str) -> None:
        raise RuntimeError(f"cannot keep {password}")


class ForgetfulKeyring(FileKeyring):
    """Can be read, but keeps nothing new."""

    def set_password(self, service: str, username: str, password: str) -> None:
        raise RuntimeError(f"cannot keep {password}")
