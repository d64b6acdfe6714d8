"""Reads the fleet from LXD: hosts, tenants and blueprints, each in one request per server.

The module is a little longer than others, because what is read together is put together here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TypeVar, cast

from bot.fleet.cached_server import CachedServer
from bot.fleet.starts import StartLimiter
from bot.guest.blueprint.furniture import furniture_of
from bot.guest.mautic import Mautic
from bot.lxd.protocol import Instance, InstanceState, Lxd, LxdError, LxdUnavailable, Resources, Snapshot
from bot.lxd.wire import kept
from bot.model.labels import (
    Role,
    State,
    has_replaced,
    label_of,
    labels_of,
    moment_of,
    number_of,
    replaced,
    role_of,
    state_of,
)
from bot.model.plan import Refused, UnknownWords
from bot.model.tenants import Tenant

T = TypeVar("T")
FRESH = 3.0
"""Seconds for which a reading of a host's memory is reused; admission adds the operations begun meanwhile."""

FEW = 8
"""The most instances whose state is read one by one; more are read with one request."""


@dataclass(frozen=True)
class Place:
    """The storable location of a host: its server's name in the settings, and the cluster member, or ""."""

    server: str
    member: str


@dataclass(frozen=True)
class Host:
    """What tenants run on: a standalone LXD server, or a member of a cluster. `server`: its name in the settings.

    `lxd` is the server's API for this member, so that new instances are created on this host. `starts` delays the start
    of a tenant while too many are starting.
    """

    name: str
    server: str
    lxd: Lxd
    mautic: Mautic
    starts: StartLimiter
    member: str = ""

    @property
    def place(self) -> Place:
        """Return the storable location of the host."""
        return Place(self.server, self.member)

    def start(self, instance: str, *, urgent: bool = False) -> None:
        """Start a tenant's container in its turn, or at once (`urgent`) where clients wait; no effect when it runs."""
        self.starts.wait(urgent=urgent)
        self.lxd.start(instance)


@dataclass(frozen=True)
class Inventory:
    """The requested instances on the servers that answered, and for each silent server why it did not answer."""

    tenants: tuple[Tenant, ...]
    silent: Mapping[str, str]


@dataclass(frozen=True)
class TenantEntry:
    """A tenant with its state and its snapshots, oldest first.

    `left`: snapshots of retired containers on the same host, which the tenant can be restored to as well. `rival`:
    another instance on the host with the tenant's address, "": none.
    """

    tenant: Tenant
    state: InstanceState
    snapshots: tuple[Snapshot, ...]
    left: tuple[Snapshot, ...] = ()
    rival: str = ""


@dataclass(frozen=True)
class FullInventory:
    """The tenants on the servers that answered, why the silent servers did not, and the edges as in `Fleet.edges`."""

    tenants: tuple[TenantEntry, ...]
    silent: Mapping[str, str]
    edges: tuple[tuple[Host, str], ...] = ()


def _tenant(server: str, instance: Instance, role: Role) -> Tenant:
    state = state_of(instance.config)
    by = "suspended-by" if state == State.SUSPENDED else "stopped-by"
    by_command, in_operation = replaced(instance.config)
    facts = labels_of(instance.config)
    return Tenant(
        name=facts.get("tenant") or instance.name,
        server=server,
        host=instance.location or server,
        instance=instance.name,
        status=instance.status,
        domain=facts.get("domain", ""),
        plan=facts.get("plan", ""),
        version=facts.get("version", ""),
        role=role,
        state=state,
        stopped=instance.config.get("boot.autostart") == "false",
        note=facts.get("note", ""),
        replaced_by=by_command,
        replaced_in=in_operation,
        operation=facts.get("operation", ""),
        created=moment_of(facts.get("created", "")),
        archived=moment_of(facts.get("archived", "")),
        kept_until=moment_of(facts.get("kept-until", "")),
        retired=moment_of(facts.get("retired", "")),
        double=facts.get("double") == "1",
        member=instance.location,
        disk=instance.devices.get("root", {}).get("size", ""),
        started=instance.started,
        closed_by=number_of(facts.get(by, "")),
        boot=(
            instance.config.get("boot.autostart.priority", ""),
            instance.config.get("boot.autostart.delay", ""),
        ),
        outbound_off=facts.get("outbound") == "off",
        address=kept(instance.config, instance.devices),
        tags=tuple(facts.get("tags", "").split()),
        cutover=facts.get("cutover", ""),
        furniture=furniture_of(instance.config),
        slot=number_of(slot) if (slot := facts.get("slot", "")).isdecimal() else None,
        recipe=facts.get("recipe", ""),
        archive=facts.get("archive", ""),
        on_demand=facts.get("on-demand") == "1",
        suite=facts.get("suite", ""),
        base=_base(instance, role),
    )


def _base(instance: Instance, role: Role) -> int:
    """Return when the packages were installed; a blueprint from before this label has those of the day of its build."""
    told = label_of(instance.config, "base") or (label_of(instance.config, "created") if role is Role.BLUEPRINT else "")
    return moment_of(told)


def _of(server: str, instances: Sequence[Instance]) -> list[Tenant]:
    known = ((instance, role_of(instance.config)) for instance in instances)
    return [_tenant(server, instance, role) for instance, role in known if role and role is not Role.BALLAST]


def _with_replaced_as_retired(found: Sequence[Tenant]) -> list[Tenant]:
    """Treat a container as retired when its candidate is the tenant by now, although its labels do not say so yet."""
    by_name: dict[str, list[Tenant]] = {}
    for one in found:
        by_name.setdefault(one.name, []).append(one)
    if len(by_name) == len(found):
        # The usual case: no two containers of one tenant.
        return list(found)

    def stands(one: Tenant) -> Tenant:
        candidate = next((other for other in by_name[one.name] if has_replaced(other, one)), None)
        if candidate is None:
            return one
        # Earlier releases stored no command, and had only these two.
        before = "restore" if (candidate.server, candidate.host) == (one.server, one.host) else "migrate"
        command = candidate.cutover or before
        return replace(one, role=Role.RETIRED, replaced_by=command, replaced_in=candidate.made_by)

    return [stands(one) for one in found]


def only(found: Sequence[Tenant]) -> Tenant:
    """Return the only container of a name; raise Refused when there are more, as after a restore of a host's backup."""
    if len(found) == 1:
        return found[0]
    where = " and ".join(f"`{one.instance}` on {one.host}" for one in found)
    raise Refused(
        f"`{found[0].name}` exists more than once: {where}. Delete all but the right one on the server itself, then "
        "try again."
    )


class Fleet:
    """All hosts and tenants of the servers in the settings.

    Args:
        servers: the LXD servers by name; the first is the one of `[lxd]`.
        starts: how many tenants of a host may begin to start within `start_delay` seconds.
    """

    def __init__(self, servers: Mapping[str, Lxd], *, starts: int = 1, start_delay: float = 0) -> None:
        self.servers = dict(servers)
        self._starts = starts, start_delay
        self._lock = threading.Lock()
        self._hosts: dict[tuple[str, str], Host] = {}
        self._members: dict[str, tuple[str, ...]] = {}
        self._resources: dict[str, tuple[float, Resources]] = {}
        self._memory: dict[str, dict[str, tuple[float, int]]] = {}
        self._looked = threading.local()
        self.fresh = FRESH

    def once(self) -> Fleet:
        """Return a copy of the fleet for one list of plans, which reads each server once and caches the answers."""
        servers = {name: cast(Lxd, CachedServer(lxd)) for name, lxd in self.servers.items()}
        return Fleet(servers, starts=self._starts[0], start_delay=self._starts[1])

    # -- hosts --------------------------------------------------------------------------------------------------

    def hosts(self) -> list[Host]:
        """Return every host that may take tenants now: the online members of clusters, and the standalone servers.

        A server that does not answer has no hosts. Raises Refused when two hosts have the same name.
        """
        read, _ = self._each(lambda lxd: lxd.members())
        self._members |= {server: tuple(one.name for one in members) for server, members in read.items()}
        self._hosts_by_name()
        return [
            self._host(server, name)
            for server, members in read.items()
            for name in ([one.name for one in members if one.online] if members else [""])
        ]

    def host(self, name: str) -> Host:
        """Return a host by name, silent or not; raise UnknownWords with the nearest name if there is none."""
        if name not in self._hosts_by_name() or self.servers.keys() - self._members.keys():
            self.hosts()
        known = self._hosts_by_name()
        if name in known:
            return self._host(*known[name])
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"available: {', '.join(f'`{one}`' for one in known)}."
        raise UnknownWords(f"There is no host “{name[:40]}”; {hint}")

    def _hosts_by_name(self) -> dict[str, tuple[str, str]]:
        """Return server and member of each known host; while a server's members are unknown, the server itself."""
        known: dict[str, tuple[str, str]] = {}
        for server in self.servers:
            for member in self._members.get(server) or ("",):
                name = member or server
                if name in known:
                    raise Refused(
                        f"Both `{known[name][0]}` and `{server}` have a host `{name}`. Rename one of the servers in "
                        "the settings, or the cluster member."
                    )
                known[name] = server, member
        return known

    def of(self, tenant: Tenant) -> Host:
        """Return the host that a tenant's instance runs on, without a request."""
        return self._host(tenant.server, tenant.member)

    def at(self, place: Place) -> Host:
        """Return the host of a place, without a request; raise LxdUnavailable where it is no longer in the settings."""
        return self._host(place.server, place.member)

    def _host(self, server: str, member: str) -> Host:
        with self._lock:
            if (server, member) not in self._hosts:
                if server not in self.servers:
                    raise LxdUnavailable(f"`{server}` is not among the servers in the settings.")
                lxd = self.servers[server].at(member) if member else self.servers[server]
                self._hosts[server, member] = Host(
                    member or server, server, lxd, Mautic(lxd), StartLimiter(*self._starts), member
                )
            return self._hosts[server, member]

    def resources(self, host: Host) -> Resources:
        """Return the memory and load of a host, at most `fresh` seconds old."""
        at, found = self._resources.get(host.name, (0.0, None))
        if found is None or time.monotonic() - at >= self.fresh:
            found = host.lxd.resources()
            self._resources[host.name] = time.monotonic(), found
        return found

    def memory(self, host: Host, instances: Sequence[str]) -> dict[str, int]:
        """Return the memory of running instances of a host in bytes, with cached files, at most `fresh` seconds old."""
        known = self._memory.setdefault(host.name, {})
        old = [name for name in instances if time.monotonic() - known.get(name, (0.0, 0))[0] >= self.fresh]
        if old:
            # One request for all states takes as long as a few requests for single ones.
            told = host.lxd.states() if len(old) > FEW else {name: host.lxd.state(name) for name in old}
            at = time.monotonic()
            known |= {name: (at, told[name].memory) for name in old if name in told}
        return {name: known[name][1] for name in instances if name in known}

    # -- tenants ------------------------------------------------------------------------------------------------

    @contextmanager
    def reading_once(self) -> Iterator[None]:
        """Make this thread read the instances of each server only once; only for code that changes nothing."""
        if getattr(self._looked, "at", None) is not None:
            yield
            return
        self._looked.at = []
        try:
            yield
        finally:
            self._looked.at = None

    def _instances(self) -> tuple[dict[str, list[Instance]], dict[str, str]]:
        at: list[tuple[dict[str, list[Instance]], dict[str, str]]] | None = getattr(self._looked, "at", None)
        if at:
            return at[0]
        found = self._each(lambda lxd: lxd.instances())
        if at is not None:
            at.append(found)
        return found

    def inventory(self, *roles: Role) -> Inventory:
        """Return the instances with one of the roles from every server that answers, sorted by name."""
        read, silent = self._instances()
        everything = [tenant for server, instances in read.items() for tenant in _of(server, instances)]
        found = [tenant for tenant in _with_replaced_as_retired(everything) if tenant.role in roles]
        return Inventory(tuple(sorted(found, key=lambda tenant: (tenant.name, tenant.instance))), silent)

    def all(self, *roles: Role) -> list[Tenant]:
        """Return the instances with one of the roles, sorted by name; raise LxdUnavailable when a server is silent."""
        seen = self.inventory(*roles)
        for why in seen.silent.values():
            raise LxdUnavailable(why)
        return list(seen.tenants)

    def tenants(self) -> list[Tenant]:
        """Return the tenants, without archived ones."""
        return self.all(Role.TENANT)

    def tenant(self, name: str, among: Sequence[Tenant] | None = None) -> Tenant:
        """Return a tenant by name; raise Refused with the nearest name, or LxdUnavailable where a server is silent."""
        seen = self.inventory(Role.TENANT) if among is None else Inventory(tuple(among), {})
        if named := [tenant for tenant in seen.tenants if tenant.name == name]:
            return only(named)
        self.require_all_answered(seen)
        near = get_close_matches(name, [tenant.name for tenant in seen.tenants], n=1)
        hint = f" Did you mean `{near[0]}`?" if near else " `/mautic list` shows all."
        raise Refused(f"There is no tenant `{name}`.{hint}")

    def require_all_answered(self, seen: Inventory) -> None:
        """Raise LxdUnavailable when a server was silent, as the missing instance may be on it."""
        for server, why in seen.silent.items():
            raise LxdUnavailable(
                why
                if len(self.servers) == 1
                else f"`{server}` does not answer, so the bot cannot see all tenants: {why}"
            )

    def full_inventory(self) -> FullInventory:
        """Return every tenant with its state and snapshots, in one request per server, which is slow on big fleets."""
        read, silent = self._each(lambda lxd: lxd.full_instances())
        wholes = [
            (tenant, whole)
            for server, answered in read.items()
            for whole in answered
            for tenant in _of(server, [whole.instance])
        ]
        stand = _with_replaced_as_retired([tenant for tenant, _ in wholes])
        seen = [(tenant, whole) for tenant, (_, whole) in zip(stand, wholes, strict=True)]
        left: dict[tuple[str, str], tuple[Snapshot, ...]] = {}
        for tenant, whole in seen:
            if tenant.role == Role.RETIRED:
                left[tenant.name, tenant.host] = left.get((tenant.name, tenant.host), ()) + whole.snapshots
        by_address: dict[tuple[str, str, str], list[str]] = {}
        for server, answered in read.items():
            for whole in answered:
                place = server, whole.instance.location, kept(whole.instance.config, whole.instance.devices)
                by_address.setdefault(place, []).append(whole.instance.name)

        def rival(tenant: Tenant) -> str:
            having = by_address[tenant.server, tenant.member, tenant.address] if tenant.address else []
            return next((name for name in having if name != tenant.instance), "")

        found = [
            TenantEntry(tenant, whole.state, whole.snapshots, left.get((tenant.name, tenant.host), ()), rival(tenant))
            for tenant, whole in seen
            if tenant.role == Role.TENANT
        ]
        edges = self._edges({server: [whole.instance for whole in answered] for server, answered in read.items()})
        return FullInventory(tuple(sorted(found, key=lambda one: one.tenant.name)), silent, edges)

    def edges(self) -> tuple[tuple[Host, str], ...]:
        """Return each host whose edge runs, with the edge's instance, which uses the host's pool as the tenants do."""
        read, _ = self._each(lambda lxd: lxd.instances())
        return self._edges(read)

    def _edges(self, read: Mapping[str, Sequence[Instance]]) -> tuple[tuple[Host, str], ...]:
        return tuple(
            (self._host(server, one.location), one.name)
            for server, instances in read.items()
            for one in instances
            if one.running and role_of(one.config) == Role.EDGE
        )

    # -- blueprints ---------------------------------------------------------------------------------------------

    def blueprint(self, version: str = "") -> Tenant:
        """Return the newest blueprint of a version, on the host that built it; raise Refused when there is none.

        The default version is that of new tenants: of the newest blueprint that was not built for an operation.
        """
        # A copy on another host has the same age, and the number of the operation that copied it.
        seen = self.inventory(Role.BLUEPRINT)
        known = sorted(seen.tenants, key=lambda one: (one.created, not one.operation))
        if not version and known:
            version = ([one for one in known if not one.on_demand] or known)[-1].version
        for blueprint in reversed(known):
            if version == blueprint.version:
                return blueprint
        self.require_all_answered(seen)
        if known:
            offered = ", ".join(sorted({f"`{blueprint.version}`" for blueprint in known}))
            raise UnknownWords(f"There is no blueprint of Mautic {version}; available: {offered}.")
        raise Refused("There is no blueprint yet; `python -m bot blueprint build` on the bot's machine creates one.")

    # -- reading ------------------------------------------------------------------------------------------------

    def _each(self, read: Callable[[Lxd], T]) -> tuple[dict[str, T], dict[str, str]]:
        """Ask all servers in parallel; return the answers, and for each server without an answer the reason."""

        def ask(lxd: Lxd) -> T | LxdError:
            try:
                return read(lxd)
            except LxdError as error:
                return error

        if len(self.servers) == 1:
            answers = [ask(lxd) for lxd in self.servers.values()]
        else:
            with ThreadPoolExecutor(len(self.servers)) as threads:
                answers = list(threads.map(ask, self.servers.values()))
        named = dict(zip(self.servers, answers, strict=True))
        told = {server: answer for server, answer in named.items() if not isinstance(answer, LxdError)}
        return told, {server: str(answer) for server, answer in named.items() if isinstance(answer, LxdError)}
