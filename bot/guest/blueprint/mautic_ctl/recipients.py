"""Reads the recipients of mail that waits in Mautic's queue."""

import re
from base64 import b64decode
from contextlib import suppress
from typing import Any

from .php import Object, unserialized

MAILBOX = r"[\w.!#$%&*+/?^{|}~'-]+@[\w.-]+\w"
ADDRESS = re.compile(MAILBOX)
CLASSES = 8
"""The most classes of a serialised mail, each the parent of the one before."""
WRITTEN_BY = ("from", "sender", "replyto", "returnpath")
FIELDS = re.compile(
    r"(?<![\w-])(?P<field>from|sender|reply-?to|return-?path|to|cc|bcc|recipients?|subject|text|html|body)"
    rf'(?="?\s*[:;=])|(?P<address>{MAILBOX})',
    re.IGNORECASE,
)
"""The fields of a mail in any notation, and addresses."""


def sent_to(body: bytes) -> set[str]:
    """Return the addresses to which a queued message goes, in lower case.

    Symfony writes a message with slashes before quotes, and as base64 if it is not UTF-8. From a message that cannot be
    parsed, all addresses are returned except the senders': otherwise a contact with the sender's address would match,
    and all waiting mail would be dropped.
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
            # A leading apostrophe may be a quotation mark before the address.
            (senders if field in WRITTEN_BY else others).update({address, address.lstrip("'")})
    return others - senders


def _recipients(message: Any) -> set[str]:
    """Return the recipients of a message in Symfony's queue, none for a page hit or an opened mail.

    A `SendEmailMessage` has an envelope, which may name recipients, and an `Email`. The `Email` is a list of its own
    values and, last, the list of its parent class; the innermost list begins with the headers. Mautic's `MauticMessage`
    also has data for each recipient by address (metadata), for services that send one message to many. Raises
    ValueError, LookupError, AttributeError or TypeError for any other object.
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
