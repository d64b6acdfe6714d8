"""Simulates the `mautic-ctl` verbs for opt-outs and erasures, on the state of a tenant in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from bot.guest.blueprint.mautic_ctl.system import CtlError
from bot.guest.simulated_state import State, change
from bot.lxd.protocol import Lxd

SOMEBODY = "whoever had the number"
"""The name of every erased contact: a simulated tenant keeps no names, and gives no number to a second contact."""


class Tenant(Protocol):
    """The parts of a simulated tenant that are needed here."""

    name: str
    now: float
    state: State

    @property
    def lxd(self) -> Lxd:
        """The server that the tenant is on."""

    def closed_as(self) -> str:
        """Return why the tenant is closed, "" if it is open."""

    def stop(self, *services: str) -> None:
        """Stop services."""

    def start(self, *services: str) -> None:
        """Start services."""


def withdrawals(tenant: Tenant, request: Mapping[str, Any]) -> dict[str, Any]:
    state, since, page = tenant.state, request["since"], request.get("page") or 0
    if request.get("final"):
        tenant.stop("php8.2-fpm")
    if "mariadb" in state.stopped:
        raise CtlError("the database refused a statement (no connection)")
    said: list[dict[str, Any]] = [
        {
            "row": row,
            "contact": contact,
            "email": state.people.get(contact, ""),
            "born": 0,
            "channel": channel,
            "reason": reason,
            "channel_id": None,
            "comments": "",
            "at": int(at),
        }
        for row, (contact, channel, reason, at) in enumerate(state.opted_out, 1)
        if at >= since and contact in state.people
    ]
    gone = {contact: int(at) for contact, at in state.erased if at >= since and contact not in state.people}
    erased: list[dict[str, Any]] = [
        {"contact": contact, "at": gone[contact], "name": SOMEBODY} for contact in sorted(gone)
    ]
    after = request.get("after") or (0, 0)
    counts = {"contacts": state.contacts, "opt_outs": len(said), "erasures": len(erased)}
    return {
        "now": int(tenant.now),
        **(counts if request.get("count", True) else dict.fromkeys(counts, 0)),
        "said": [one for one in said if one["row"] > after[0]][:page],
        "erased": [one for one in erased if one["contact"] > after[1]][:page],
    }


def withdraw(tenant: Tenant, request: Mapping[str, Any]) -> dict[str, Any]:
    if not tenant.closed_as():
        raise CtlError("it is open, and its contacts are not changed behind its users' backs")
    tenant.start("mariadb")
    state = tenant.state
    opted_out, people, addresses = list(state.opted_out), dict(state.people), set()
    laid = unknown = 0
    for one in request["said"]:
        theirs = {
            contact
            for contact, email in people.items()
            if email == one["email"] and (email or contact == one["contact"])
        }
        former = {
            who["contact"]
            for who in one.get("merged") or ()
            if who["contact"] in people and not ("@" in who["name"] and people[who["contact"]] not in ("", who["name"]))
        }
        theirs |= former | {contact for contact, email in people.items() if email in _named(one)}
        unknown += not theirs
        addresses |= {people[contact] for contact in theirs if one["channel"] == "email"}
        for contact in sorted(theirs):
            if not any((contact, one["channel"]) == found[:2] for found in opted_out):
                opted_out.append((contact, one["channel"], one["reason"], one["at"]))
                laid += 1
    there = [one for one in request["erased"] if one["contact"] in people]
    gone = [one for one in there if one.get("name") in (SOMEBODY, people[one["contact"]] or SOMEBODY)]
    addresses |= {people.pop(one["contact"]) for one in gone}
    left = [address for address in state.addressed if address not in addresses]
    mails = len(state.addressed) - len(left)
    tenant.state = change(
        tenant.lxd,
        tenant.name,
        people=people,
        opted_out=[found for found in opted_out if found[0] in people],
        erased=[*state.erased, *((one["contact"], one["at"]) for one in gone)],
        addressed=left,
        mails=state.mails[: max(0, len(state.mails) - mails)],
        contacts=state.contacts - len(gone),
    )
    return {"opt_outs": laid, "erasures": len(gone), "unknown": unknown, "mails": mails, "left": len(there) - len(gone)}


def _named(one: Mapping[str, Any]) -> set[str]:
    """Return the addresses of the contacts that were merged into the contact of an opt-out."""
    return {who["name"] for who in one.get("merged") or () if "@" in who["name"]}


VERBS: dict[str, Callable[[Any, Mapping[str, Any]], dict[str, Any]]] = {
    verb.__name__: verb for verb in (withdrawals, withdraw)
}
