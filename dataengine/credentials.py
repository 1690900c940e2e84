"""No credential enters a document or leaves in a text.

Addresses that hold one (`s3://KEY:SECRET@BUCKET`, `https://HOST/x?token=...`) are refused before anything is read, and
the error does not show them. What is printed or stored of an error passes `redacted` once more.
"""

from __future__ import annotations

import os
import re
from typing import Any

from dataengine.errors import SpecError

MIN_SECRET = 8
HIDDEN = "***"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,63}:/{1,2}[^\s\"'<>`]+")
"""A scheme ends somewhere: without a bound, a long word costs the square of its length."""
_CHAIN = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]+:/)")
_PARTS = re.compile(r"([^:]+:/{1,2})([^/?#]*)([^?#]*)(.*)", re.DOTALL)
_NAME = re.compile(
    r"(^|_)(token|secret|password|passwd|pwd|pw|sig|signature|credentials?|auth|authorization|key|(api|access)_?key(_?id)?"
    r"|apikey|googleaccessid|awsaccesskeyid)$"
)
_VARIABLE = re.compile(r"(SECRET|TOKEN|PASSWORD|PASSWD|PWD|KEY|SIGNATURE)$")
_FOLDERS = ("PWD", "OLDPWD")
"""A shell's current and last folder: half of all paths begin with one of them."""


def has_credential(text: str) -> bool:
    """Whether an address in the text holds user information or a parameter that grants access."""
    return any(_holds(found.group()) for found in _ADDRESS.finditer(text))


def _holds(address: str) -> bool:
    return any(_one_holds(part) for part in _CHAIN.split(address))


def _one_holds(address: str) -> bool:
    parts = _PARTS.fullmatch(address)
    if parts is None:
        return False
    scheme, host, path, rest = parts.groups()
    user, at, _ = host.rpartition("@")
    if at:
        return ":" in user or not scheme.lower().startswith(("ssh:", "git+ssh:", "s3:"))
    if not host.startswith(("[", "arn:")):
        _, _, port = host.partition(":")
        if port and (not port.isdigit() or _hides(scheme, path)):
            return True
    pairs = (pair.partition("=") for pair in re.split(r"[?#&;]", rest))
    return any(value and _NAME.search(name.lower().replace("-", "_")) for name, _, value in pairs)


def _hides(scheme: str, path: str) -> bool:
    """Whether what looks like a path holds the end of a secret key, which may have slashes; only the web has ports."""
    return "@" in path and not scheme.lower().startswith("http")


def refuse_credentials(value: Any, where: str) -> None:
    """A `SpecError` that names the field, and not its text, when a document (or one string) holds such an address."""
    for field, text in _strings(value, ""):
        if has_credential(text):
            raise SpecError(
                f"{field}: an address with a credential in it" if field else "an address with a credential in it",
                where=where,
                fix="take user, password and tokens out of the address: credentials come from the environment"
                " (AWS_ACCESS_KEY_ID, a profile, the protocol's own settings)",
            )


def _strings(value: Any, at: str) -> list[tuple[str, str]]:
    if isinstance(value, str):
        return [(at, value)]
    if isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items()]
        keys = [(at, key) for key, _ in items]
        return keys + [pair for key, item in items for pair in _strings(item, f"{at}.{key}" if at else key)]
    if isinstance(value, list | tuple):
        return [pair for number, item in enumerate(value) for pair in _strings(item, f"{at}.{number}" if at else "")]
    return []


def redacted(text: str) -> str:
    """The text without credentials in addresses, and without the values of the environment's secrets."""
    text = _ADDRESS.sub(lambda found: _clean(found.group()), text)
    for name, value in os.environ.items():
        if len(value) >= MIN_SECRET and _VARIABLE.search(name.upper()) and name not in _FOLDERS:
            text = text.replace(value, HIDDEN)
    return text


def _clean(address: str) -> str:
    """An address without its credentials; of a chain of addresses each."""
    return "::".join(_one_clean(part) if _one_holds(part) else part for part in _CHAIN.split(address))


def _one_clean(address: str) -> str:
    parts = _PARTS.fullmatch(address)
    if parts is None:
        return HIDDEN
    scheme, host, path, rest = parts.groups()
    _, colon, port = host.partition(":")
    body = host + path
    if "@" in host or (colon and _hides(scheme, path)):
        body = f"{HIDDEN}@{body.rpartition('@')[2]}"
    elif colon and not port.isdigit() and not host.startswith(("[", "arn:")):
        body = HIDDEN
    return f"{scheme}{body}" + (f"?{HIDDEN}" if rest else "")
