"""Addresses in a manifest that may be secrets: how they name variables, and when they hold a secret themselves."""

from __future__ import annotations

import re

from batchgen.url import split_url

VARIABLE = re.compile(r"\$\{([^}]*)\}")
ALLOWED_VARIABLE = re.compile(r"(?:NOTIFY|HEARTBEAT)(?:_[A-Z0-9_]+)?", re.ASCII)


def variable_problem(address: str) -> str | None:
    """What is wrong with the variables of an address; None when nothing is."""
    for name in VARIABLE.findall(address):
        if not ALLOWED_VARIABLE.fullmatch(name) or name.endswith("_API_KEY"):
            return f"${{{name}}}: only variables that begin with NOTIFY_ or HEARTBEAT_ may be sent to an address"
    return None


def manifest_problem(address: str) -> str | None:
    """The same of an address in a manifest, which may be a stranger's: it must not send a secret of the user's to itself.

    So a variable is the whole address, and decides itself where it is sent.
    """
    if VARIABLE.search(address) is None or VARIABLE.fullmatch(address) is not None:
        return variable_problem(address)
    whole = "a variable has to be the whole address: write ${NOTIFY_URL}, and set that to all of it"
    return variable_problem(address) or whole


def parameters_problem(address: str) -> str | None:
    """Of an address that a folder gives, be it of a manifest or of its `.env`.

    Parameters such as `?template=/home/…` make apprise read any file of the user's and send it.
    """
    if set(address) & set("?&"):
        return "the address may have no parameters (`?`), which can name files to send: set ${NOTIFY_URL} in the environment instead"
    return None


def heartbeat_problem(address: str) -> str | None:
    """Of an address that a folder gives: why nothing is sent there; None when it is, or when variables say where.

    Over http it could name any port of this machine.
    """
    if VARIABLE.search(address):
        return None
    try:
        scheme = split_url(address).scheme
    except ValueError as error:
        return f"the address {error}"
    if scheme == "https":
        return None
    return "the address has to begin with https://; for one on this machine set ${HEARTBEAT_URL} in the environment"


def secrets_in(address: str) -> list[str]:
    """Parts that look like tokens or passwords: the password, and what is long and has digits. Also in a malformed address."""
    text = VARIABLE.sub("", address).partition("#")[0]
    rest = text.partition("://")[2] or text
    found = [word for word in re.split(r"[/&=?@:+.,]", rest) if len(word) >= 10 and any(map(str.isdigit, word))]
    _, _, password = re.split(r"[/?]", rest)[0].rpartition("@")[0].partition(":")
    return [password, *found] if password else found
