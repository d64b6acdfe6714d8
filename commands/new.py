"""`/mautic new`: make a live tenant."""

from __future__ import annotations

import secrets
import threading
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches

from bot.capacity import Demand
from bot.fleet import Host
from bot.forms import shown_domain
from bot.labels import Role, State, role_of, stamp, stamps
from bot.lxd import Instance, NotFound, edge_address, size_bytes
from bot.messages import Modal, modal, select_input, text_input
from bot.placement import admit, free_on, placement, use
from bot.plan import Plan, Refused, Step, UnknownWords
from bot.products import takes
from bot.registry import Context, DomainOption, TenantsArgument, operation
from bot.selection import Selection, batch
from bot.starts import boot
from bot.steps import PROBE, probing, remove, see_login_page, wait_for_address
from bot.tenants import RESERVED, PlanSize, Tenant

_BRINGING = threading.Lock()
_TAKING = threading.Lock()
"""Who brings a blueprint somewhere, and who takes a domain, is one at a time."""


@operation
def new(
    context: Context,
    tenant: TenantsArgument = "",
    *,
    domain: DomainOption = "",
    plan: str = "small",
    host: str = "",
    version: str = "",
    note: str = "",
) -> Plan | Modal:
    """Make a live tenant: a Mautic of its own for one client, at its own address.

    Without a name it opens a form; several names, with commas between, are one request. `--plan` is a size,
    `--domain` an address of the client's own that points here, `--version` one of the Mautics that there is a blueprint
    of. Without `--host` it goes where there is most room.
    """
    if not tenant:
        return _form(context)
    selection = Selection(tenant)
    if selection.one:
        return _one(context, tenant, domain, plan, host, version, note)
    if domain:
        raise Refused("A domain is one tenant's; ask for each that has one of its own by itself.")
    names = tenant.strip(",").split(",")
    # Where each goes was decided when it was asked for.
    hosts = host.split(",") if host.count(",") == len(names) - 1 else [host] * len(names)
    placed = dict(zip(names, hosts, strict=True))
    return batch(
        context,
        "new",
        selection,
        lambda context, name: _one(context, name, "", plan, placed[name], version, note),
        doing="Make",
        arguments={"plan": plan, "host": host, "version": version, "note": note},
        resolve=lambda children: {
            "host": ",".join(child.host for child in children),
            "version": str(children[0].values["version"]),
        },
    )


def _one(context: Context, tenant: str, domain: str, plan: str, host: str, version: str, note: str) -> Plan:
    size = context.settings.plans.get(plan)
    if size is None:
        near = get_close_matches(plan, context.settings.plans, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there is {', '.join(context.settings.plans)}."
        raise UnknownWords(f"There is no plan “{plan[:40]}”; {hint}")
    if len(note) > 200:
        raise Refused(f"The note is {len(note)} characters long; it has at most 200.")
    domain = domain or f"{tenant}.{context.settings.bot.base_domain}"
    everything = context.fleet.all(Role.TENANT, Role.FORMER, Role.ARCHIVED)
    _refuse_if_taken(context, everything, tenant, domain)
    if not context.begun:
        _refuse_under_ours(context, everything, tenant, domain)
    blueprint = context.fleet.blueprint(version)
    place = context.fleet.host(host) if host else None
    demand = Demand(
        place.name if place else "",
        instance=tenant,
        memory=use(context, everything).expected(plan),
        plan=size_bytes(size.memory),
        tenants=1,
    )
    why: dict[str, str] = {}
    if place is None:
        place, most = placement(context, demand)
        demand = replace(demand, host=place.name)
        why = {"Why there": most}
    elif not context.begun:
        why = {"Room": free_on(place)}
    why |= admit(context, place, demand, f"Tenant `{tenant}` does not fit on")
    make = _New(context, place, tenant, domain, plan, size, blueprint, note)
    if shown_domain(domain) != domain:
        why = {"Domain": f"{shown_domain(domain)}, which is {domain} in DNS"} | why
    facts = {
        "Address": context.settings.edge.url(domain),
        "Mautic": blueprint.version + (" (a double, not the real Mautic)" if blueprint.double else ""),
        "Plan": f"{plan}: {size.cpu} CPUs, {size.memory} memory, {size.disk} disk",
        "Host": place.name,
    }
    bring = () if place.name == blueprint.host else (Step("bring", "Have the blueprint there", make.bring_blueprint),)
    if bring and not context.operation:
        make.refuse_wrong_way()
    return Plan(
        tenant=tenant,
        arguments={
            "tenant": tenant,
            "domain": domain,
            "plan": plan,
            "host": place.name,
            "version": blueprint.version,
            "note": note,
        },
        summary=f"Make the tenant {tenant}",
        facts=facts | ({"Note": note} if note else {}),
        values={
            "address": context.settings.edge.url(domain),
            "version": blueprint.version,
            "double": blueprint.double,
            "size": plan,
            "cpu": size.cpu,
            "memory": size.memory,
            "disk": size.disk,
            "host": place.name,
            "note": note,
        },
        commit=PROBE,
        remarks=why,
        demand=demand.stored(),
        steps=(
            *bring,
            Step("clone", "Clone the blueprint", make.clone),
            Step("start", "Start the container", make.start),
            Step("identify", "Give it an identity of its own", make.identify),
            Step("route", "Route its domain", make.route),
            probing(make.probe),
        ),
        reversible="can be undone with `delete`",
        seconds=15,
        undo=make.undo,
        host=place.name,
    )


def _form(context: Context) -> Modal:
    plans = {
        name: f"{name}: {size.cpu} CPUs, {size.memory}, {size.disk}" for name, size in context.settings.plans.items()
    }
    return modal(
        "command",
        "New tenant",
        [
            text_input(
                "tenant", "Name", hint="Lower-case letters, digits and hyphens; it becomes part of the address."
            ),
            text_input("domain", "Domain", hint="Empty: a name under our own domain.", optional=True),
            select_input("plan", "Plan", plans, initial=next(iter(plans))),
            text_input("note", "Note", hint="What it is for; shown on the card.", optional=True),
        ],
        submit="Ask for it",
    )


def _refuse_if_taken(context: Context, everything: list[Tenant], tenant: str, domain: str) -> None:
    for other in everything:
        ours = context.operation and other.operation == str(context.operation)
        if ours:
            continue
        if other.instance == tenant and other.role == Role.FORMER:
            raise Refused(f"A former container of `{tenant}` is still kept, {other.reason}; choose another name.")
        if other.role == Role.FORMER:
            continue
        if other.name == tenant and other.role == Role.ARCHIVED:
            raise Refused(f"`{tenant}` is archived; `/mautic unarchive {tenant}` brings it back.")
        if other.name == tenant:
            raise Refused(f"There is a tenant `{tenant}` already; choose another name.")
        if other.domain == domain:
            raise Refused(f"The domain `{domain}` is `{other.name}`'s; choose another.")


def _refuse_under_ours(context: Context, everything: list[Tenant], tenant: str, domain: str) -> None:
    """Of the names under our own domain one is the tenant's; nobody takes another's, or a reserved one, around it."""
    base = context.settings.bot.base_domain
    own = f"{tenant}.{base}"
    if domain == base:
        raise Refused(f"`{domain}` is our own domain; without `--domain` it is `{own}`.")
    if not domain.endswith(f".{base}") or domain == own or domain.endswith(f".{own}"):
        return
    label = domain.removesuffix(f".{base}").rpartition(".")[2]
    if label in RESERVED or label.startswith("xn--"):
        raise Refused(f"`{label}.{base}` is reserved; without `--domain` it is `{own}`.")
    if any(one.name == label for one in everything):
        raise Refused(f"`{label}.{base}` is the tenant `{label}`'s; without `--domain` it is `{own}`.")


class _New:
    """The steps; each looks at the instance, stamped with the operation's number, before it acts."""

    def __init__(
        self,
        context: Context,
        host: Host,
        name: str,
        domain: str,
        plan: str,
        size: PlanSize,
        blueprint: Tenant,
        note: str,
    ) -> None:
        self.context = context
        self.host = host
        self.lxd = host.lxd
        self.name = name
        self.domain = domain
        self.plan = plan
        self.size = size
        self.blueprint = blueprint
        self.note = note

    def _ours(self) -> Instance | None:
        """Return the instance when this operation made it, None when there is none; refuse a stranger's."""
        try:
            instance = self.lxd.instance(self.name)
        except NotFound:
            return None
        if stamp(instance.config, "operation") != str(self.context.operation):
            raise Refused(f"There is an instance `{self.name}` that this operation did not make; rename or remove it.")
        return instance

    def _blueprint_here(self) -> Instance | None:
        """Return the blueprint of the wanted version on this host, None when it has to be brought."""
        for one in self.lxd.instances():
            facts = stamp(one.config, "role"), stamp(one.config, "version"), one.location or self.host.server
            if facts == ("blueprint", self.blueprint.version, self.host.name):
                return one
        return None

    def refuse_wrong_way(self) -> None:
        """Refuse a host whose server takes no blueprint from the one that has it."""
        source = self.context.fleet.of(self.blueprint)
        here, there = self.lxd.server().product, source.lxd.server().product
        if not takes(here, there) and self._blueprint_here() is None:
            raise Refused(
                f"`{self.host.name}` has no blueprint, and {here} takes none from {there}: `--host {source.name}`."
            )

    def bring_blueprint(self) -> None:
        with _BRINGING:
            if self._blueprint_here() is None:
                self._bring_blueprint()

    def _bring_blueprint(self) -> None:
        source = self.context.fleet.of(self.blueprint)
        # In a cluster names are of the whole cluster.
        name = self.blueprint.instance + (f"--{self.host.name}" if source.server == self.host.server else "")
        with suppress(NotFound):
            left = self.lxd.instance(name)
            if role_of(left.config) == Role.INCOMING:
                # A copy that was cut in the middle.
                remove(self.lxd, left.name)
        mark = stamps(role=Role.INCOMING, operation=self.context.operation)
        self.lxd.receive(source.lxd, self.blueprint.instance, name, config=mark, devices={}, refresh=False)
        self.lxd.update(name, stamps(role=Role.BLUEPRINT))

    def clone(self) -> None:
        instance = self._ours()
        if instance is not None:
            if stamp(instance.config, "copied"):
                return
            # A copy that was cut in the middle: not to be trusted, whatever it looks like.
            remove(self.lxd, instance.name)
        stamped = stamps(
            role=Role.TENANT,
            tenant=self.name,
            domain=self.domain,
            plan=self.plan,
            version=self.blueprint.version,
            double=self.blueprint.double,
            operation=self.context.operation,
            created=int(self.context.now()),
            note=self.note,
            state=State.NEW,
        )
        here = self._blueprint_here()
        if here is None:
            raise Refused(f"`{self.host.name}` has no blueprint of Mautic {self.blueprint.version} any more.")
        self.lxd.copy(
            f"{here.name}/golden",
            self.name,
            config={**stamped, **self.size.limits(), **self._lasting()},
            devices={
                "root": {"type": "disk", "path": "/", "pool": self.context.settings.lxd.pool, "size": self.size.disk}
            },
        )
        self.lxd.update(self.name, stamps(copied=1))

    def _lasting(self) -> dict[str, str]:
        """It comes back after a reboot, in its turn; and nobody deletes it by mistake."""
        turn = boot(self.context.settings.capacity, "idle")
        return {"boot.autostart": "true", **turn, "security.protection.delete": "true"}

    def start(self) -> None:
        self.host.start(self.name)

    def identify(self) -> None:
        context = self.context
        requester = context.actor.id
        known = context.vault.ensure(
            context.operation,
            self.name,
            requester,
            context.settings.retention.credentials_hours,
            username="admin",
            email=f"admin@{self.domain}",
            address=context.settings.edge.url(self.domain) + "/s/login",
        )
        self.host.mautic.identity(
            self.name,
            domain=self.domain,
            site_url=context.settings.edge.url(self.domain),
            username=known["username"],
            email=known["email"],
            password=known["password"],
            database_password=secrets.token_urlsafe(24),
            secret_key=secrets.token_hex(32),
            size=self.size,
            edge_address=edge_address(context.settings.lxd.subnet),
        )

    def route(self) -> None:
        # Only now: its address comes while it gets its identity.
        wait_for_address(self.lxd, self.name)
        with _TAKING:
            # Another may have been asked for at the same time, for the same domain.
            opened = [one for one in self.context.fleet.all(Role.TENANT, Role.ARCHIVED) if one.state != State.NEW]
            _refuse_if_taken(self.context, opened, self.name, self.domain)
            self.lxd.update(self.name, stamps(state=State.LIVE))
        self.context.edge.apply()

    def probe(self) -> str:
        return see_login_page(self.context.edge, self.domain)

    def undo(self) -> None:
        try:
            instance = self._ours()
        except Refused:
            # Somebody else's: this operation has made nothing.
            instance = None
        if instance is not None:
            remove(self.lxd, instance.name)
            self.context.edge.apply()
        self.context.vault.forget(self.context.operation)
