"""Assesses a tenant after a failed rollback: whether it is online, where its data is, and what is safe to do.

The assessment is made from the login page, as a client gets it, and from the containers. It is stored with the
operation as its `aftermath`, so that card, thread, Home tab, digest and incident all say the same; each sweep looks
again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypedDict

from bot.engine.context import Context
from bot.fleet.inventory import Inventory
from bot.model.labels import Role, State, serving
from bot.model.tenants import Tenant, candidate_name
from bot.store import progress
from bot.store.operation import Operation

log = logging.getLogger(__name__)
TOUCHES_NOTHING = frozenset(["purge", "prune", "snapshot", "tag"])
"""Commands that leave the serving container alone, so that they have nothing to do with a tenant being offline."""

_HOLDS = {"restore": "a copy of the snapshot", "rollback": "a copy of the earlier container"}
"""What a candidate that was never opened is, by cutover."""


class Aftermath(TypedDict):
    """An assessment, as stored. `online`: None if unknown or closed on purpose; `since`: since when, epoch seconds.

    `headline` has no full stop; `data` and `advice` are sentences, or empty; `safe`: the button that loses nothing.
    """

    online: bool | None
    since: float
    headline: str
    data: str
    advice: str
    safe: Literal["retry", "undo", ""]


def assess(context: Context, operation: Operation) -> Aftermath:
    """Assess an operation's tenant, with one request per server and one for the page. Raises nothing."""
    seen, found, page = Inventory((), {}), list[Tenant](), None
    try:
        seen = context.fleet.inventory(Role.TENANT, Role.RETIRED, Role.INCOMING, Role.ARCHIVED)
        found = [one for one in seen.tenants if one.name == operation.tenant]
        if domain := next((one.domain for one in found if one.domain), ""):
            page = context.edge.probe(domain).login
    except Exception as error:
        log.warning("cannot look at everything that operation %s left: %s", operation.id, error)
    headline, online = _headline(operation, found, page)
    kept = operation.aftermath
    since = kept["since"] if kept.get("online", "") == online and "since" in kept else context.now()
    if operation.cutover:
        opened = bool(progress.switched(context.operations, operation))
        data, advice, safe = _told(operation, found, seen.silent, opened)
    else:
        again = "; Undo tries the rollback again" if operation.undoable else ""
        data, advice, safe = _where(found), f"Retry continues the request{again}.", ""
    return Aftermath(online=online, since=since, headline=headline, data=data, advice=advice, safe=safe)


def assess_again(context: Context) -> None:
    """Update the aftermath of every operation that needs attention; its card follows."""
    for operation in context.operations.select("state = 'needs_attention'"):
        now = assess(context, operation)
        if now != operation.aftermath:
            with context.database.transaction() as transaction:
                transaction.execute(
                    "UPDATE operations SET aftermath = ?, revision = revision + 1"
                    " WHERE id = ? AND state = 'needs_attention'",
                    (json.dumps(now), operation.id),
                )
            context.operations.changed()


def _headline(operation: Operation, found: list[Tenant], page: bool | None) -> tuple[str, bool | None]:
    tenant = operation.tenant
    if operation.command == "new":
        return f"{tenant} is {'live, but not finished' if page else 'not live yet'}", page
    if operation.command in TOUCHES_NOTHING and not any(one.role == Role.TENANT for one in found):
        return "", None
    on_purpose = [_rests(one) for one in found if one.role in (Role.TENANT, Role.ARCHIVED)]
    if not page and on_purpose and all(on_purpose):
        return f"{tenant} is {on_purpose[0]} on purpose", None
    if page is None:
        return f"{tenant} may be offline: the bot cannot check right now", None
    if not page:
        return f"{tenant} is offline", False
    by = serving(found)
    return f"{tenant} is online" + (f", served by {_named(by)}" if by else ""), True


def _rests(one: Tenant) -> str:
    """Return how a container is closed on purpose, in one word; "" if it is not."""
    if one.role == Role.ARCHIVED or one.state == State.SUSPENDED:
        return "archived" if one.role == Role.ARCHIVED else "suspended"
    return "stopped" if (one.state, one.stopped) == (State.LIVE, True) and one.status != "Running" else ""


def _named(one: Tenant) -> str:
    return f"`{one.instance}` on {one.host}"


def _where(found: list[Tenant]) -> str:
    kept = [one for one in found if one.role in (Role.TENANT, Role.ARCHIVED)]
    return f"All its data is in {_named(kept[0])}." if len(kept) == 1 else ""


def may_be_on(operation: Operation, silent: Collection[str]) -> list[str]:
    """Return the servers that do not answer and may have a container of the operation, by name."""
    inputs = operation.plan.get("inputs") or {}
    places = [inputs[name] for name in ("old", "found", "target") if isinstance(inputs.get(name), dict)]
    # Earlier releases stored no inputs: the container may be anywhere.
    return sorted({place["server"] for place in places} & {*silent} if places else silent)


def _told(
    operation: Operation, found: list[Tenant], silent: Mapping[str, str], opened: bool
) -> tuple[str, str, Literal["retry", "undo", ""]]:
    """Return where the data is after a cutover stopped halfway, what is safe to do, and the button for that."""
    what = operation.cutover
    name = candidate_name(operation.tenant, operation.id)
    candidate = next((one for one in found if one.instance == name), None)
    others = [one for one in found if one is not candidate]
    old = next((one for one in others if one.role == Role.TENANT or one.replaced_in == operation.id), None)
    if operation.committed:
        new = _named(candidate) if candidate else f"`{name}`, whose host does not answer"
        data = f"The newest data is in {new}" + (f"; {_named(old)} is the previous container." if old else ".")
        return data, f"Retry is safe: it finishes the {what}, and nothing is lost.", "retry"
    if old is None:
        where = " and ".join(silent) or "its host"
        return (
            f"The previous container is on a host that does not answer: {where}.",
            "Bring that host back first.",
            "",
        )
    if candidate is None and opened and (servers := may_be_on(operation, silent)):
        data = (
            f"`{name}`, which was opened to clients, may be on {' or '.join(servers)}, which does not answer. "
            f"{_named(old)} has everything before that."
        )
        return (
            data,
            f"Bring that server back first. Undo returns to {_named(old)} and loses what was written since.",
            "",
        )
    if candidate is None:
        data = f"All data is in {_named(old)}."
        return data, f"Undo is safe: {_goes_on(old)}. Retry starts the {what} again.", "undo"
    if candidate.state != State.LIVE:
        holds = _HOLDS.get(what, "an unfinished copy")
        data = f"All data is in {_named(old)}; {_named(candidate)} is {holds}, which nobody has used."
        return data, f"Undo is safe: {_goes_on(old)}, and nothing is lost. Retry continues the {what}.", "undo"
    if serving([old]):
        data = f"The data is in {_named(old)}, which keeps serving; {_named(candidate)} is left over."
        return data, f"Undo is safe: the leftover is deleted. Retry starts the {what} again.", "undo"
    data = (
        f"The newest data is in {_named(candidate)}, which was open to clients: what they wrote since is only there. "
        f"{_named(old)} has everything before that."
    )
    lost = f"Undo returns to {_named(old)} and loses what was written to the new container."
    return data, f"{lost} Retry finishes the {what} and loses nothing.", "retry"


def _goes_on(old: Tenant) -> str:
    return f"{old.name} returns to {_named(old)}"


def told(aftermath: Mapping[str, Any], bold: str = "") -> str:
    """Return an aftermath in one line, for a thread and an incident; "" if nothing is known.

    `bold`: the mark put around the headline.
    """
    if not aftermath.get("headline"):
        return ""
    return " ".join(filter(None, [f"{bold}{aftermath['headline']}.{bold}", aftermath["data"], aftermath["advice"]]))
