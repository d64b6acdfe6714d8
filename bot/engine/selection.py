"""Selects the tenants of a command, by name or by options, and plans the batch over them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bot.engine.context import Context
from bot.engine.guards import FREEZE, Change, Guards, Moment
from bot.engine.registry import complete
from bot.fleet.advisories import advisories
from bot.fleet.capacity import Demand
from bot.fleet.inventory import Inventory
from bot.model.labels import Role
from bot.model.plan import Plan, Refused, UnknownWords
from bot.model.tenants import InvalidName, Tenant, tag_name
from bot.model.text import LINE, escape, option
from bot.model.text import names as of_roles

MOST = 1000
"""The most tenants in one batch."""
SHOWN, SHOWN_REASONS = 12, 3
"""The most names, and the most tenants that are left out with the reason, on a card: the thread has all."""


@dataclass(frozen=True)
class Selection:
    """What was typed: names separated by commas, or options that select among all tenants."""

    names: str
    all: bool = False
    host: str = ""
    size: str = ""
    tag: str = ""
    holes: bool = False
    """Only those that run a version with known security holes."""

    @property
    def chooses(self) -> bool:
        """Whether tenants are selected by options, and not named."""
        return bool(self.all or self.host or self.size or self.tag or self.holes)

    @property
    def one(self) -> bool:
        """Whether a single tenant was named."""
        return bool(self.names) and "," not in self.names and not self.chooses

    @property
    def words(self) -> str:
        """The words that select, as they were typed."""
        options = {"host": self.host, "size": self.size, "tag": self.tag}
        typed = [f"--{name}" for name, given in (("all", self.all), ("holes", self.holes)) if given]
        return " ".join([*typed, *(f"--{name} {value}" for name, value in options.items() if value)]) or self.names

    def refuse_both(self, command: str) -> None:
        """Raise Refused when both names and options were given, or neither."""
        if self.names and self.chooses:
            raise UnknownWords(f"Either name tenants or select them with `{self.words}`, not both.")
        if not self.names and not self.chooses:
            raise UnknownWords(
                f"Which tenants? Name one (`/mautic {command} client-x`) or several (`client-x,client-y`), or select "
                "with `--all`, `--host`, `--size` or `--tag`."
            )


def select(context: Context, selection: Selection, command: str) -> list[str]:
    """Return the names of the selected tenants, each once; raises Refused when there are none, or too many."""
    selection.refuse_both(command)
    if selection.names:
        return list(dict.fromkeys(filter(None, selection.names.split(","))))
    if selection.size and selection.size not in context.settings.plans:
        raise UnknownWords(f"There is no size “{selection.size[:40]}”. Sizes: {', '.join(context.settings.plans)}.")
    host = context.fleet.host(selection.host) if selection.host else None
    try:
        tag = tag_name(selection.tag) if selection.tag else ""
    except InvalidName as error:
        raise UnknownWords(str(error)) from error
    known = advisories(context.settings)
    seen = context.fleet.inventory(Role.TENANT)
    # The selection might include tenants on a server that does not answer.
    silent = {server: why for server, why in seen.silent.items() if host is None or server == host.server}
    context.fleet.require_all_answered(Inventory((), silent))

    def meant(one: Tenant) -> bool:
        return (
            (host is None or (one.server, one.host) == (host.server, host.name))
            and (not selection.size or one.plan == selection.size)
            and (not tag or tag in one.tags)
            and (not selection.holes or bool(known.of(one.version)))
        )

    found = list(dict.fromkeys(one.name for one in seen.tenants if meant(one)))
    if not found:
        raise UnknownWords(f"No tenant matches `{selection.words}`. See all: `/mautic list`")
    return found


def batch(
    context: Context,
    command: str,
    selection: Selection,
    each: Callable[[Context, str], Plan],
    *,
    doing: str,
    arguments: Mapping[str, str | bool],
    resolve: Callable[[Sequence[Plan]], Mapping[str, str | bool]] = lambda children: {},
    child: str = "",
) -> Plan:
    """Return the plan of a batch over the selected tenants.

    If a tenant that options selected is not possible, it is left out, and the card says why; every named tenant has to
    be possible.

    Args:
        each: makes the plan of one tenant, by name. Every server is asked once for all of them.
        doing: the verb of the summary, such as "Restart".
        arguments: the command's own, without those of the selection.
        child: the command of the children, if it is another one.
        resolve: returns arguments that were decided with the plans, so that the same plans are made again.
    """
    context = replace(context, fleet=context.fleet.once(), many=True)
    names = select(context, selection, command)
    if len(names) > MOST:
        raise UnknownWords(f"`{selection.words}` selects {len(names)} tenants, but a batch can have at most {MOST}.")
    children: list[Plan] = []
    left_out: dict[str, str] = {}
    guards = Guards(context)
    for name in names:
        promised = _promised(children, context.settings.batches.at_once_host)
        try:
            # A tenant that is frozen later stays on the list, and waits.
            if not context.operation:
                guards.refuse(Moment.REQUEST, Change(child or command, name, context.actor), FREEZE)
            one = replace(context, promised=promised)
            made = complete(context.registry.command(child or command), one, each(one, name))
            children.append(replace(made, command=child))
        except Refused as error:
            if selection.names:
                raise
            left_out[name] = _why_not(guards, name, error)
    if not children:
        name, why = next(iter(left_out.items()))
        raise Refused(f"None of the selected tenants can be included. {name}: {why}")
    whole = _plan(context, command, selection, children, left_out, doing, arguments)
    return replace(whole, arguments={**whole.arguments, **resolve(children)})


def _why_not(guards: Guards, name: str, no: Refused) -> str:
    """Return why a tenant is left out, without markup: nobody is mentioned there."""
    freeze = guards.freezes.on(name) if no.guard == FREEZE else None
    if freeze is None:
        return str(no).replace("`", "")
    roles = guards.context.settings.policy("unfreeze").ask
    may_end = "who froze" + (f", or {of_roles(roles)}," if roles else "")
    return f"frozen ({may_end} can end that: {freeze.way_out})"


def _promised(children: Sequence[Plan], at_once_host: int) -> tuple[Demand, ...]:
    """Return what earlier plans take from hosts.

    Of plans that take memory only while they run, the largest count, as many as may run on a host beside one more.
    """
    demands = [Demand(**child.demand) for child in children if child.demand]
    lasting = [demand for demand in demands if not demand.passing]
    passing: dict[str, list[Demand]] = {}
    for demand in demands:
        if demand.passing:
            passing.setdefault(demand.host, []).append(demand)
    beside = [sorted(some, key=lambda one: -one.memory)[: at_once_host - 1] for some in passing.values()]
    return (*lasting, *(demand for some in beside for demand in some))


def left_out_of(reasons: Sequence[str]) -> tuple[str, bool]:
    """Return who is left out of a batch, for its card, and whether that is all; `reasons`: `name: why` of each."""
    said = "; ".join(reasons[:SHOWN_REASONS])
    if len(reasons) <= SHOWN_REASONS and len(escape(said)) <= LINE:
        return said, True
    # The number first, because the card cuts a long line.
    return f"{len(reasons)}, all in the thread: {said}{'; …' if len(reasons) > SHOWN_REASONS else ''}", False


def _listed(context: Context, names: Sequence[str], reasons: Sequence[str]) -> str:
    """Return the list for the thread of a batch whose card has no room for all."""
    return context.renderer.words("batch-list.j2", names=names if len(names) > SHOWN else (), left_out=reasons)


def _plan(
    context: Context,
    command: str,
    selection: Selection,
    children: list[Plan],
    left_out: Mapping[str, str],
    doing: str,
    arguments: Mapping[str, str | bool],
) -> Plan:
    names, pace = [child.tenant for child in children], context.settings.batches
    hosts = Counter(child.host for child in children)
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    alike = {
        label: value
        for label, value in children[0].facts.items()
        if all(child.facts.get(label) == value for child in children)
    }
    facts = {
        "Tenants": shown,
        "Hosts": ", ".join(f"{host} {count}" for host, count in hosts.items()),
        **({} if len(hosts) == 1 and len(children) == 1 else alike),
        "Pace": f"{pace.at_once} at once, {pace.at_once_host} per host, pauses after {pace.stop_after} failures",
    }
    reasons = [f"{name}: {reason}" for name, reason in left_out.items()]
    why, whole = left_out_of(reasons)
    values: dict[str, Any] = {
        "tenants": ",".join(names),
        "at_once": pace.at_once,
        "at_once_host": pace.at_once_host,
        "stop_after": pace.stop_after,
    }
    options = "".join(f" {option(name, value)}" for name, value in arguments.items() if value)
    return Plan(
        tenant="",
        # A comma after a single name marks a list.
        arguments={**arguments, "tenant": ",".join(names) + ("," if len(names) == 1 else "")},
        summary=f"{doing} {len(names)} tenant{'s' if len(names) > 1 else ''}",
        facts=facts,
        remarks={"Left out": why} if why else {},
        values=values,
        texts={
            "again": f"{command} {selection.words}{options}",
            "left_out": "\n".join(reasons),
            **({} if whole and len(names) <= SHOWN else {"thread": _listed(context, names, reasons)}),
        },
        steps=(),
        reversible=children[0].reversible,
        seconds=math.ceil(sum(child.seconds for child in children) / min(pace.at_once, len(children))),
        subject="host" if selection.host and not (selection.size or selection.tag or selection.holes) else "fleet",
        host=selection.host,
        children=tuple(children),
    )
