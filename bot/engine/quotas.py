"""Checks whether the kernel enforces the disk limits of tenants, and repairs that where it stopped.

A kernel marks the quotas of a btrfs pool inconsistent when counting would cost too much, for example after a big
container was deleted. The bot asks through the edge of each host: the edge is the bot's own, and its root is on the
same pool as the tenants'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bot.edge.edges import ANSWER, each
from bot.engine.context import Context
from bot.fleet.inventory import Host
from bot.lxd.protocol import LxdError, Quotas
from bot.model.diagnosis import Diagnosis, Finding
from bot.store import audit
from bot.store.operation import SYSTEM


def ask(edges: Sequence[tuple[Host, str]]) -> dict[str, Quotas | None]:
    """Return what the kernel of each host reports about quotas, by name, for the hosts that answer.

    None stands for a host whose kernel does not tell. All hosts are asked at once.
    """
    servers = {host.name: (host.lxd, edge) for host, edge in edges}
    told, _ = each(servers, lambda _, one: one[0].quotas(one[1]), within=ANSWER)
    return told


def mend(pool: str, edges: Sequence[tuple[Host, str]], told: Mapping[str, Quotas | None]) -> list[str]:
    """Restart the count on the pools that are not counted according to `told`; return a sentence for each.

    `told`: the result of `ask`.
    """
    said = []
    for host, edge in edges:
        quotas = told.get(host.name)
        if quotas and not quotas.counts:
            why = recount(host, edge, quotas)
            said.append(
                problem(pool, host, edge, why)
                if why
                else f"The pool `{pool}` of `{host.name}` was not counted, so no disk limit held: the bot has "
                "restarted the count, which takes some minutes."
            )
    return said


def look(context: Context, edges: Sequence[tuple[Host, str]]) -> dict[str, Diagnosis]:
    """Return a diagnosis of each host, by name: whether its disks are counted. `edges` as `Fleet.edges` returns them.

    Where they are not, the bot restarts the count, and reports a finding only if that fails, or if they are still not
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
            # A pool without quotas has no finding.
            if name in known:
                with context.database.transaction() as transaction:
                    transaction.execute("DELETE FROM uncounted WHERE host = ?", (name,))
            continue
        if name not in known:
            _note(context, name)
        why = recount(host, edge, quotas)
        if why or name in known:
            why = why or "The bot has restarted the count, which has not helped so far."
            found[name] = Diagnosis((Finding("quotas", problem(context.settings.lxd.pool, host, edge, why)),))
    return found


def _note(context: Context, host: str) -> None:
    now = context.now()
    with context.database.transaction() as transaction:
        transaction.execute("INSERT INTO uncounted (host, since) VALUES (?,?)", (host, now))
        audit.record(transaction, audit.Event("quotas.recounted", SYSTEM, detail={"server": host}), now)


def recount(host: Host, edge: str, quotas: Quotas) -> str:
    """Restart the count on a host's pool, which then takes minutes; return why the bot cannot, or ""."""
    try:
        host.lxd.recount(edge, quotas.filesystem)
    except LxdError as error:
        return str(error)
    return ""


def problem(pool: str, host: Host, edge: str, why: str) -> str:
    """Say that the disks of a host are not counted, why the bot could not repair that, and what to do."""
    try:
        folder = host.lxd.root_path(edge)
    except LxdError:
        folder = "<the pool's folder>"
    return (
        f"The kernel of `{host.name}` has stopped counting disk usage on the pool `{pool}` (inconsistent quotas): no "
        f"disk limit holds, and one tenant can fill the pool for all. {why} Run `btrfs quota rescan -w {folder}` as "
        f"root on `{host.name}` to restart the count; tenants stay online meanwhile."
    )
