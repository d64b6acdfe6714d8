"""Checks whether the kernel enforces the disk limits of tenants, and repairs that where it stopped.

A kernel marks the quotas of a pool on btrfs inconsistent when counting on would cost too much, as after a big container
was deleted. Who is asked is the edge of each host: it is ours, and its root is on the same pool as the tenants'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bot import audit
from bot.diagnosis import Diagnosis, Finding
from bot.edges import ANSWER, each
from bot.fleet import Host
from bot.lxd import LxdError, Quotas
from bot.operations import SYSTEM
from bot.registry import Context


def ask(edges: Sequence[tuple[Host, str]]) -> dict[str, Quotas | None]:
    """Return what the kernel of each host says, by name, of those that answer; all are asked at once."""
    doors = {host.name: (host.lxd, edge) for host, edge in edges}
    told, _ = each(doors, lambda _, door: door[0].quotas(door[1]), within=ANSWER)
    return told


def mend(pool: str, edges: Sequence[tuple[Host, str]], told: Mapping[str, Quotas | None]) -> list[str]:
    """Have the pools that are not counted, as was `told`, counted anew; return a sentence for each."""
    said = []
    for host, edge in edges:
        quotas = told.get(host.name)
        if quotas and not quotas.counts:
            why = recount(host, edge, quotas)
            said.append(
                trouble(pool, host, edge, why)
                if why
                else f"The pool `{pool}` of `{host.name}` was not counted, and no limit of a disk held: the bot has "
                "begun to have it counted anew, which takes minutes at most."
            )
    return said


def look(context: Context, edges: Sequence[tuple[Host, str]]) -> dict[str, Diagnosis]:
    """Say of each host by name whether its disks are counted; `edges` as `Fleet.edges` returns them.

    Where they are not, the bot has them counted anew, and nobody hears of it unless it cannot, or they are still not
    counted at the next look.
    """
    told = ask(edges)
    known = {row["host"] for row in context.database.read("SELECT host FROM uncounted")}
    found = {}
    for host, edge in edges:
        name = host.name
        if name not in told:
            found[name] = Diagnosis(unseen=frozenset(["quotas"]))
            continue
        quotas, found[name] = told[name], Diagnosis()
        if quotas is None or quotas.counts:
            # A pool that has no quotas has no trouble with them.
            if name in known:
                with context.database.transaction() as transaction:
                    transaction.execute("DELETE FROM uncounted WHERE host = ?", (name,))
            continue
        if name not in known:
            _note(context, name)
        why = recount(host, edge, quotas)
        if why or name in known:
            why = why or "The bot had it counted anew, which has not helped by now."
            found[name] = Diagnosis((Finding("quotas", trouble(context.settings.lxd.pool, host, edge, why)),))
    return found


def _note(context: Context, host: str) -> None:
    now = context.now()
    with context.database.transaction() as transaction:
        transaction.execute("INSERT INTO uncounted (host, since) VALUES (?,?)", (host, now))
        audit.record(transaction, audit.Event("quotas.recounted", SYSTEM, detail={"server": host}), now)


def recount(host: Host, edge: str, quotas: Quotas) -> str:
    """Have a host's pool counted anew, which takes as long as it takes; return why the bot cannot, "" where it can."""
    try:
        host.lxd.recount(edge, quotas.filesystem)
    except LxdError as error:
        return str(error)
    return ""


def trouble(pool: str, host: Host, edge: str, why: str) -> str:
    """Say that the disks of a host are not counted, why the bot could not mend it, and what a person does."""
    try:
        folder = host.lxd.root_path(edge)
    except LxdError:
        folder = "<the pool's folder>"
    return (
        f"The kernel of `{host.name}` has stopped counting what is used of the pool `{pool}`, as its quotas are "
        f"inconsistent: no limit of a disk holds, and one tenant can fill the pool for all. {why} On `{host.name}`, as "
        f"root, `btrfs quota rescan -w {folder}` makes it count again, while all goes on."
    )
