"""The passwords and tokens that this process knows, so that no text repeats one that others put into it.

Sites and proxies repeat in their errors, addresses and headers what they were told, as it is or spelled as JSON, HTML
or an address. Whatever comes from outside is shown through :func:`pipeline.errors.printable`, which asks here.
"""

import base64
import contextlib
import html
import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator

_HIDDEN = "***"
# What is shorter than this is part of ordinary words.
_SHORTEST = 4
# Of each secret: some letters of it that look alike in every spelling, and how it may be spelled, the longest first.
_known: tuple[tuple[str, tuple[str, ...]], ...] = ()


def hide(*secrets: str | None) -> None:
    """Hide secrets from now on; what is None or very short is not hidden.

    Examples
    --------
    >>> hide("c4nnot be seen")
    >>> without_secrets("see /login?next=/&password=c4nnot%20be%20seen")
    'see /login?next=/&password=***'
    """
    global _known
    new = {
        _entry(text) for secret in secrets if secret and len(secret) >= _SHORTEST for text in (secret, _base64(secret))
    }
    if not new <= set(_known):
        # The longest first, because one may be a part of another.
        _known = tuple(sorted(new.union(_known), key=lambda entry: len(entry[1][-1]), reverse=True))
        _leave_no_core_file()


def hide_login(user: str | None, password: str | None) -> None:
    """Hide a password, and the header of HTTP that it makes with a user name."""
    if password:
        hide(password, _base64(f"{user}:{password}"))


def hide_proxies() -> None:
    """Hide the passwords of the proxies that the environment names."""
    for url in urllib.request.getproxies().values():
        with contextlib.suppress(ValueError):
            parts = urllib.parse.urlsplit(url)
            if parts.password:
                hide(parts.password)
                hide_login(*map(urllib.parse.unquote, (parts.username or "", parts.password)))


def without_secrets(text: str) -> str:
    """Return a text in which the secrets are hidden."""
    for letters, spellings in _known:
        if letters in text:
            for spelled in spellings:
                text = text.replace(spelled, _HIDDEN)
    return text


def _entry(secret: str) -> tuple[str, tuple[str, ...]]:
    letters = max(re.findall("[A-Za-z0-9]+", secret), key=len, default="")
    spellings = {quoted for written in _written(secret) for quoted in _quoted(written)}
    return letters, tuple(sorted(spellings, key=lambda spelled: (len(spelled), spelled), reverse=True))


def _written(secret: str) -> Iterator[str]:
    """Yield a secret as JSON, Python and HTML write it, and JSON that is in JSON."""
    # As it is, with its spaces folded, and as the header of an answer is read that has it in UTF-8.
    for text in (secret, " ".join(secret.split()), secret.encode().decode("latin-1")):
        yield from (text, html.escape(text), html.escape(text, quote=False))
        yield from (repr(text)[1:-1], ascii(text)[1:-1], repr(text.encode())[2:-1])
        for in_ascii in (True, False):
            once = json.dumps(text, ensure_ascii=in_ascii)[1:-1]
            yield from (once, json.dumps(once, ensure_ascii=in_ascii)[1:-1])


def _quoted(text: str) -> Iterator[str]:
    """Yield a text as it is, and as addresses have it."""
    yield text
    for quoted in (urllib.parse.quote(text), urllib.parse.quote(text, safe=""), urllib.parse.quote_plus(text)):
        yield from (quoted, re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), quoted))


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _leave_no_core_file() -> None:
    """Let a crash of this process write none of its memory to a disk, as programs do that hold keys."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # which not every system has

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
