"""The allowed forms of settings, such as ranges and sizes, with the words for a refusal. Pure: does no lookups.

A dataclass of settings annotates each field with its form: `workers: Annotated[int, whole(1, 64)]`. `bot/settings.py`
validates with these forms, so that a wrong value is refused at the start, in one sentence that names its key.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints
from zoneinfo import ZoneInfo

import idna

from bot.model.moments import Hours

_UNITS: dict[str, int] = {"": 1, "B": 1} | {
    f"{prefix}{unit}": base**power
    for unit, base, prefixes in (("B", 1000, "kMGTPE"), ("iB", 1024, "KMGTPE"))
    for power, prefix in enumerate(prefixes, 1)
}
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)\Z")
NAME = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
"""The pattern of a name that is safe in paths, addresses and messages."""


class WrongForm(Exception):
    """A value does not have the form of its key; the text is one sentence that names the key."""


@dataclass(frozen=True)
class Form:
    """The form that a value has to have.

    Attributes:
        takes: the words after “it has to be …” in a refusal.
        read: returns the value in its normal form, or raises ValueError.
        parse: converts the text of an environment variable; text that it cannot convert it returns unchanged, so that
            `read` refuses it.
    """

    takes: str
    read: Callable[[Any], Any]
    parse: Callable[[str], Any] = str


def whole(least: int, most: int) -> Form:
    """Return the form of a whole number within a range."""

    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError
        return value

    return Form(f"a whole number from {least} to {most}", read, _parse_whole)


def number(least: float, most: float) -> Form:
    """Return the form of a number within a range, with or without decimals."""

    def read(value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value) or not least <= value <= most:
            raise ValueError
        return float(value)

    def parse(text: str) -> Any:
        text = text.strip()
        return float(text) if re.fullmatch(r"[+-]?\d+(\.\d+)?", text, re.A) else text

    return Form(f"a number from {least:g} to {most:g}", read, parse)


def flag() -> Form:
    """Return the form of a boolean: true or false."""

    def read(value: Any) -> bool:
        if type(value) is not bool:
            raise ValueError
        return value

    return Form("true or false", read, lambda text: {"true": True, "false": False}.get(text.strip().lower(), text))


def text(takes: str, pattern: str = r"[^\x00-\x1f]{1,4000}") -> Form:
    """Return the form of text that matches a pattern in full."""
    return _text(takes, lambda value: value if re.fullmatch(pattern, value) else None)


def one_of(*words: str) -> Form:
    """Return the form of a choice of words."""
    shown = [f'"{word}"' for word in words]
    return _text(f"{', '.join(shown[:-1])} or {shown[-1]}", lambda value: value if value in words else None)


def names(takes: str, pattern: str) -> Form:
    """Return the form of a list of names that each match a pattern in full; the group `name` becomes the name."""

    def read(value: Any) -> list[str]:
        if type(value) is not list or not all(type(one) is str for one in value):
            raise ValueError
        found = [re.fullmatch(pattern, one.strip()) for one in value]
        if not all(found):
            raise ValueError
        return list(dict.fromkeys(one["name"] for one in found if one))

    return Form(takes, read)


def secret() -> Form:
    """Return the form of a secret from the environment: any text, so that no refusal ever shows it."""
    return _text("text", lambda value: value)


def optional(form: Form) -> Form:
    """Return a form that also takes the empty text."""
    return Form(f"{form.takes}, or empty", lambda value: "" if value == "" else form.read(value), form.parse)


def or_word(word: str, form: Form) -> Form:
    """Return a form that takes one word, or what another form takes."""
    return Form(f'"{word}", {form.takes}', lambda value: word if value == word else form.read(value), form.parse)


def hexadecimal(digits: int) -> Form:
    """Return the form of a fixed number of hexadecimal digits, normalised to lower case."""

    def read(value: str) -> str | None:
        found = value.strip().lower()
        return found if re.fullmatch(rf"[0-9a-f]{{{digits}}}", found) else None

    return _text(f"{digits} hexadecimal digits", read)


def path() -> Form:
    """Return the form of a path; `~` is the home of the user who runs the bot."""
    return _text("a path", lambda value: os.path.expanduser(value) if re.fullmatch(r"[^\x00\n]+", value) else None)


def domain() -> Form:
    """Return the form of a domain, normalised to lower case and ASCII (RFC 5891)."""
    return _text("a domain without https://, such as `mautic.agency.com`", ascii_domain)


def ascii_domain(text: str) -> str:
    """Return a domain as in DNS, in lower case and ASCII (`müller.de` → `xn--mller-kva.de`); raises ValueError."""
    try:
        # UTS 46 maps what people type; the result has to be valid IDNA 2008.
        found = str(idna.encode(text.strip().rstrip(".").lower(), uts46=True), "ascii")
    except (idna.IDNAError, UnicodeError) as error:
        raise ValueError(str(error)) from error
    labels = found.split(".")
    if len(found) > 253 or len(labels) < 2 or labels[-1].isdigit() or not all(map(_LABEL.match, labels)):
        raise ValueError(f"{text!r} is no domain")
    return found


def shown_domain(domain: str) -> str:
    """Return a domain as people write it (`xn--mller-kva.de` → `müller.de`)."""
    try:
        return str(idna.decode(domain))
    except (idna.IDNAError, UnicodeError):
        return domain


def ipv4() -> Form:
    """Return the form of one IPv4 address."""

    def read(value: str) -> str | None:
        address = ipaddress.IPv4Address("127.0.0.1" if value == "localhost" else value)
        return None if address.is_unspecified or address.is_multicast else str(address)

    return _text("one IPv4 address of its host, such as `203.0.113.7` (no IPv6, and not 0.0.0.0)", read)


def targets() -> Form:
    """Return the form of a list of IPv4 addresses or networks, each with one port or for all ports."""

    def read(value: Any) -> list[str]:
        if type(value) is not list or not all(type(one) is str for one in value):
            raise ValueError
        return [_target(one) for one in value]

    return Form("a list of IPv4 addresses or networks, each with a port or without, such as `10.0.0.25:25`", read)


def _target(text: str) -> str:
    address, colon, port = text.partition(":")
    network = ipaddress.IPv4Network(address)
    if colon and (not re.fullmatch(r"\d{1,5}", port, re.A) or not 0 < int(port) < 65536):
        raise ValueError(f"{text!r} has no port")
    return (str(network) if "/" in address else address) + colon + port


def bridge() -> Form:
    """Return the form of a bridge's address with its network."""

    def read(value: str) -> str:
        bridge_interface(value)
        return value

    return _text(
        "the IPv4 address and network of a bridge, one of the first fifteen addresses of at least thirty-two, "
        "such as `10.70.0.1/24`",
        read,
    )


def bridge_interface(text: str) -> ipaddress.IPv4Interface:
    """Return a bridge's address with its network; raises ValueError where edge and tenants would not fit into it."""
    interface = ipaddress.IPv4Interface(text)
    if interface.network.num_addresses < 32 or not 0 < int(interface.ip) - int(interface.network[0]) < 16:
        raise ValueError(f"{text!r} is not a bridge's address")
    return interface


def lxd_size(least: int) -> Form:
    """Return the form of a size as LXD writes it, of at least `least` bytes."""
    return _text(
        f"a size as LXD writes it, of at least {least >> 20} MiB, such as `4GiB` (not `4G`)",
        lambda value: value if lxd_bytes(value) >= least else None,
    )


def lxd_bytes(text: str) -> int:
    """Return the bytes of an LXD size (`30GiB`, `512MB`, `1024`); raises ValueError for text that LXD refuses."""
    found = re.fullmatch(r"(\d{1,18})([A-Za-z]*)", text, re.A)
    if not found or found[2] not in _UNITS:
        raise ValueError(f"{text!r} is not a size")
    return int(found[1]) * _UNITS[found[2]]


def mariadb_size() -> Form:
    """Return the form of a size as MariaDB writes it."""
    return _text(
        "a size as MariaDB writes it, of at least 5M, such as `768M` (not `768MiB`)",
        lambda value: value if mariadb_bytes(value) >= 5 << 20 else None,
    )


def mariadb_bytes(text: str) -> int:
    """Return the bytes of a MariaDB size (`768M`); raises ValueError."""
    found = re.fullmatch(r"([1-9]\d{0,17})([KMG]?)", text, re.A)
    if not found:
        raise ValueError(f"{text!r} is not a size for MariaDB")
    return int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]]


def hours() -> Form:
    """Return the form of a part of each day."""

    def normal(value: str) -> str | None:
        found = Hours.of(value)
        return str(found) if found else None

    return _text("a part of the day, such as `22:00-05:00`", normal)


def timezone() -> Form:
    """Return the form of a time zone of the IANA database."""

    def read(value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"{value!r} is no time zone") from None
        return value

    return _text("a time zone's name, such as `Europe/Berlin`", read)


def _text(takes: str, normal: Callable[[str], str | None]) -> Form:
    def read(value: Any) -> str:
        found = normal(value) if type(value) is str else None
        if found is None:
            raise ValueError
        return found

    return Form(takes, read)


def _parse_whole(text: str) -> Any:
    text = text.strip()
    return int(text) if re.fullmatch(r"[+-]?\d{1,18}", text, re.A) else text


def read(shape: Any, value: Any, sources: Mapping[str, str], key: str = "") -> Any:
    """Convert a value to its shape, or raise WrongForm.

    Args:
        shape: a dataclass whose fields have forms, a mapping of names to such shapes, or a type with a form.
        sources: where the value of each key was set, for the sentence; keys of the shipped file are missing.
    """
    form = form_of(shape)
    if form is not None:
        try:
            return form.read(value)
        except ValueError:
            where = f", from {sources[key]}" if key in sources else ""
            raise WrongForm(f"{key} is {_shown(value)}{where}; it has to be {form.takes}.") from None
    if type(value) is not dict:
        raise WrongForm(f"{key} is {_shown(value)}; it has to be a table, `[{key}]`.")
    if get_origin(shape) is Mapping:
        for name in value:
            if not re.fullmatch(NAME, name):
                raise WrongForm(f"{key} has {_shown(name)}; a name has letters, digits, dots, hyphens and underscores.")
        return {name: read(get_args(shape)[1], one, sources, f"{key}.{name}") for name, one in value.items()}
    hints = hints_of(shape)
    for name in value:
        if name not in hints:
            raise WrongForm(f"There is no setting {_shown(f'{key}.{name}')}; [{key}] takes {', '.join(hints)}.")
    found = {}
    for one in fields(shape):
        where = f"{key}.{one.name}" if key else one.name
        if one.name in value:
            found[one.name] = read(hints[one.name], value[one.name], sources, where)
        elif one.default is MISSING:
            what = form_of(hints[one.name])
            raise WrongForm(f"{where} is missing; it has to be {what.takes if what else 'a table'}.")
    return shape(**found)


@cache
def hints_of(shape: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields with their forms, by name."""
    return get_type_hints(shape, include_extras=True)


def form_of(shape: Any) -> Form | None:
    """Return the form that a type is annotated with; None where there is none."""
    return next((one for one in get_args(shape) if isinstance(one, Form)), None)


def _shown(value: object) -> str:
    """Return a value as one short line for a refusal. A secret never gets here: its form takes any text."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
