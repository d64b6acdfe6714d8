"""Whom a mail goes to that waits in Mautic's queue."""

import re
from base64 import b64decode
from contextlib import suppress
from typing import Any

from .php import Object, unserialized

MAILBOX = r"[\w.!#$%&*+/?^{|}~'-]+@[\w.-]+\w"
ADDRESS = re.compile(MAILBOX)
CLASSES = 8
"""Of which a mail is made at most, each the parent of the one before."""
WRITTEN_BY = ("from", "sender", "replyto", "returnpath")
FIELDS = re.compile(
    r"(?<![\w-])(?P<field>from|sender|reply-?to|return-?path|to|cc|bcc|recipients?|subject|text|html|body)"
    rf'(?="?\s*[:;=])|(?P<address>{MAILBOX})',
    re.IGNORECASE,
)
"""Fields of a mail, however it is written down, and addresses."""


def sent_to(body: bytes) -> set[str]:
    """Return the addresses that a message goes to.

    Symfony writes one with slashes before quotes, and as base64 where it is not UTF-8. Where that is not understood, it
    is whoever it names, but for those that it is from: who has the sender's address would lose all that waits.
    """
    with suppress(ValueError):
        body = b64decode(body, validate=True)
    plain = re.sub(rb"\\(.?)", lambda found: b"\0" if found[1] == b"0" else found[1], body, flags=re.DOTALL)
    with suppress(ValueError, LookupError, RecursionError, AttributeError, TypeError):
        return _recipients(unserialized(plain)["message"])
    field = ""
    senders: set[str] = set()
    others: set[str] = set()
    for found in FIELDS.finditer(plain.decode(errors="replace")):
        if found["field"]:
            field = found["field"].lower().replace("-", "")
        else:
            address = found["address"].lower()
            # An apostrophe may be a quotation mark before it.
            (senders if field in WRITTEN_BY else others).update({address, address.lstrip("'")})
    return others - senders


def _recipients(message: Any) -> set[str]:
    """Return whom a message in Symfony's queue goes to.

    A `SendEmailMessage` has an envelope, which names recipients if it was given some, and an `Email` that is a list: of
    its own values, and last that of its parent class, the innermost of which begins with the headers. Mautic's has the
    data of each recipient by address (`MauticMessage`, metadata), for services that mail many by one message.
    """
    if message.name.endswith("HitNotification"):
        return set()
    if not message.name.endswith("\\SendEmailMessage"):
        raise ValueError("it is no mail")
    part = message["message"]
    metadata = part.get(0) if part.name.endswith("\\MauticMessage") else None
    found = {key for key in metadata or () if isinstance(key, str)}
    for _ in range(CLASSES):
        if not isinstance(part.get(0), Object):
            part = part[max(part)]
    headers = part[0]["headers"]
    lists = [header["addresses"] for name in ("to", "cc", "bcc") for header in headers.get(name, {}).values()]
    if envelope := message["envelope"]:
        lists.append(envelope.get("recipients") or {})
    found |= {address["address"] for addresses in lists for address in addresses.values()}
    if not found:
        raise ValueError("it goes to nobody")
    return {address.lower() for address in found}
