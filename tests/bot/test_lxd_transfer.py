"""The end of a copy between two servers, by what each of them reports about it."""

from __future__ import annotations

from typing import Any

import pytest

from bot.lxd.connection import LxdConnection
from bot.lxd.protocol import NotFound
from bot.lxd.transfer import End, transfer


def end(monkeypatch: pytest.MonkeyPatch, name: str, then: Any) -> End:
    """Return an end that begins its part of the copy, and answers or raises `then` to every later request."""
    connection = LxdConnection(
        f"/nowhere/{name}", project="p", pool="p", certificate=None, server_certificate=None, timeout=15
    )

    def json(verb: str, *_: Any, **__: Any) -> Any:
        if verb == "post":
            return {"metadata": {"id": name, "metadata": {"control": "secret"}}}
        if isinstance(then, Exception):
            raise then
        return then

    monkeypatch.setattr(connection, "json", json)
    monkeypatch.setattr(connection, "request", lambda *_, **__: None)
    return End(connection, "certificate", f"https://{name}:8443")


def test_a_copy_succeeds_although_the_sender_has_forgotten_its_operation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server forgets an operation five seconds after its end."""
    source = end(monkeypatch, "source", NotFound("The server could not copy it: operation not found."))
    target = end(monkeypatch, "target", {"metadata": {"status": "Success", "metadata": {}, "err": ""}})
    transfer(source, target, "client-x", {"name": "client-x--7"}, "copy it", member="", refresh=True)
