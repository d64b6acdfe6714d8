"""`/mautic new`: create a tenant."""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from difflib import get_close_matches

from bot.engine.blueprints import blueprint_on, bring_blueprint, the_blueprint
from bot.engine.context import Context, Run
from bot.engine.copies import WHOLE, Copy
from bot.engine.placement import Elsewhere, admit, free_on, placement, use
from bot.engine.registry import DomainOption, PlanOption, TenantsArgument, operation, steps_of
from bot.engine.selection import Selection, batch
from bot.engine.steps import PROBE, probing, remove, see_login_page, wait_for_address
from bot.fleet.advisories import refuse_holes
from bot.fleet.ballast import RESERVE
from bot.fleet.capacity import Demand
from bot.fleet.inventory import Host, Place
from bot.fleet.starts import boot
from bot.guest.blueprint.recipe import FURNITURE
from bot.lxd.products import takes
from bot.lxd.protocol import edge_address, size_bytes
from bot.model.forms import shown_domain
from bot.model.labels import Role, State, as_labels
from bot.model.plan import Plan, Refused, Step, Steps, UnknownWords, always, once, require
from bot.model.slots import slot_of
from bot.model.tenants import RESERVED, PlanSize, Tenant
from bot.model.text import limit
from bot.slack.messages import Modal, modal, select_input, text_input

_TAKING = threading.Lock()
"""Lets one operation at a time claim a domain."""


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from. `plan`: the name of `size`. `bring`: the blueprint is copied to `place` first."""

    name: str
    domain: str
    plan: str
    size: PlanSize
    note: str
    place: Place
    blueprint: Tenant
    bring: bool


@operation
def new(
    context: Context,
    tenant: TenantsArgument = "",
    *,
    domain: DomainOption = "",
    plan: PlanOption = "small",
    host: str = "",
    version: str = "",
    note: str = "",
) -> Plan | Modal:
    """Create a Mautic for one client.

    Without a name a form opens; several names with commas between are one request. `--plan` is the size. `--domain` is
    the client's own domain, whose DNS has to point here first. `--version` is a version of Mautic that has a blueprint.
    Without `--host` the bot picks the host with the most free space. The approver sees the `--note`.
    """
    if not tenant:
        return _form(context)
    selection = Selection(tenant)
    if selection.one:
        return _one(context, tenant, domain, plan, host, version, note)
    if domain:
        raise Refused("A domain belongs to one tenant; request each tenant that has its own domain separately.")
    names = tenant.strip(",").split(",")
    # At an approval, `host` lists the hosts that were chosen at the request.
    hosts = host.split(",") if host.count(",") == len(names) - 1 else [host] * len(names)
    placed = dict(zip(names, hosts, strict=True))
    made = batch(
        context,
        "new",
        selection,
        lambda context, name: _one(context, name, "", plan, placed[name], version, note),
        doing="Create",
        arguments={"plan": plan, "host": host, "version": version, "note": note},
        resolve=lambda children: {
            "host": ",".join(child.host for child in children),
            "version": str(children[0].values["version"]),
        },
    )
    return replace(made, remarks={**refuse_holes(context.settings, str(made.arguments["version"])), **made.remarks})


def _one(context: Context, tenant: str, domain: str, plan: str, host: str, version: str, note: str) -> Plan:
    size = context.settings.plans.get(plan)
    if size is None:
        near = get_close_matches(plan, context.settings.plans, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"available: {', '.join(context.settings.plans)}."
        raise UnknownWords(f"There is no plan “{plan[:40]}”; {hint}")
    domain = domain or f"{tenant}.{context.settings.bot.base_domain}"
    everything = context.fleet.all(Role.TENANT, Role.RETIRED, Role.ARCHIVED)
    blueprint = context.fleet.blueprint(version)
    place = context.fleet.host(host) if host else None
    demand = Demand(
        place.name if place else "",
        instance=tenant,
        memory=use(context, everything).expected(plan),
        plan=size_bytes(size.memory),
        tenants=1,
    )
    remarks = {"Domain": f"{shown_domain(domain)}, which is {domain} in DNS"} if shown_domain(domain) != domain else {}
    if blueprint.furniture < FURNITURE:
        later = f"afterwards `/mautic refurnish {tenant}` brings them up to date"
        remarks["Files"] = f"version {blueprint.furniture} of {FURNITURE}, as in the blueprint; {later}"
    requires = [
        require(len(note) <= 200, f"The note has {len(note)} characters; the limit is 200."),
        require(
            not tenant.startswith(RESERVE), f"Names that begin with `{RESERVE}` are reserved; choose another name."
        ),
        always(_refuse_if_taken, everything, tenant, domain),
        always(_refuse_under_ours, context, everything, tenant, domain),
        always(refuse_holes, context.settings, blueprint.version),
    ]
    if place is None:
        place, most = placement(context, demand)
        demand = replace(demand, host=place.name)
        remarks["Free space"] = most
    else:
        requires.append(always(_has_space, place))
    bring = place.name != blueprint.host
    if bring:
        requires.append(once(_refuse_wrong_way, context, place, blueprint))
    doing, elsewhere = f"Tenant `{tenant}` does not fit on", Elsewhere("--host")
    requires.append(always(admit, context, place, demand, doing, elsewhere))
    facts = {
        "Address": context.settings.edge.url(domain),
        "Mautic": blueprint.version + (" (demo stand-in, not a real Mautic)" if blueprint.double else ""),
        "Plan": f"{plan}: {size.cpu} CPUs, {limit(size.memory)} memory, {limit(size.disk)} disk",
        "Host": place.name,
    }
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
        summary=f"Create tenant {tenant}",
        texts={"within": f"within {hours} h"} if (hours := context.settings.retention.credentials_hours) else {},
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
        remarks=remarks,
        requires=tuple(requires),
        inputs=Inputs(tenant, domain, plan, size, note, place.place, blueprint, bring),
        demand=demand.stored(),
        reversible="can be undone with `delete`",
        seconds=15,
        host=place.name,
    )


def _form(context: Context) -> Modal:
    plans = {
        name: f"{name}: {size.cpu} CPUs, {limit(size.memory)}, {limit(size.disk)}"
        for name, size in context.settings.plans.items()
    }
    return modal(
        "command",
        "New tenant",
        [
            text_input("tenant", "Name", hint="Lower-case letters, digits and hyphens. Part of the address."),
            text_input(
                "domain", "Domain", hint=f"Leave empty for <name>.{context.settings.bot.base_domain}.", optional=True
            ),
            select_input("plan", "Plan", plans, initial=next(iter(plans))),
            text_input("note", "Note", hint="Shown to the approver.", optional=True),
        ],
        submit="Request approval",
    )


def _has_space(place: Host) -> dict[str, str]:
    return {"Free space": free_on(place)}


def _refuse_if_taken(everything: list[Tenant], tenant: str, domain: str) -> None:
    for other in everything:
        if tenant in (other.name, other.instance) and other.role == Role.RETIRED:
            # The name counts too: the snapshots and data of that container would be offered as the new client's own.
            raise Refused(
                f"A previous container of `{tenant}` is still kept (replaced by {other.reason}); choose another name, "
                f"or delete it: `/mautic purge {other.name} {other.instance}`"
            )
        if other.role == Role.RETIRED:
            continue
        if other.name == tenant and other.role == Role.ARCHIVED:
            raise Refused(f"`{tenant}` is archived; `/mautic unarchive {tenant}` brings it back.")
        if other.name == tenant:
            raise Refused(f"Tenant `{tenant}` already exists; choose another name.")
        if other.domain == domain:
            raise Refused(f"The domain `{domain}` already belongs to `{other.name}`; choose another.")


def _refuse_under_ours(context: Context, everything: list[Tenant], tenant: str, domain: str) -> None:
    """Raise Refused for a name under the agency's domain that is reserved, or that belongs to another tenant."""
    base = context.settings.bot.base_domain
    own = f"{tenant}.{base}"
    if domain == base:
        raise Refused(f"`{domain}` is the agency's own domain; leave `--domain` out to get `{own}`.")
    if not domain.endswith(f".{base}") or domain == own or domain.endswith(f".{own}"):
        return
    label = domain.removesuffix(f".{base}").rpartition(".")[2]
    if label in RESERVED or label.startswith("xn--"):
        raise Refused(f"`{label}.{base}` is reserved; leave `--domain` out to get `{own}`.")
    if any(one.name == label for one in everything):
        raise Refused(f"`{label}.{base}` belongs to tenant `{label}`; leave `--domain` out to get `{own}`.")


def _refuse_wrong_way(context: Context, host: Host, blueprint: Tenant) -> None:
    """Raise Refused for a host whose server cannot import the blueprint from the server that has it."""
    source = context.fleet.of(blueprint)
    here, there = host.lxd.server().product, source.lxd.server().product
    if not takes(here, there) and blueprint_on(host, blueprint) is None:
        raise Refused(
            f"`{host.name}` has no blueprint, and {here} cannot import one from {there}; use `--host {source.name}`."
        )


@steps_of(new)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Clone the blueprint, give the clone its own identity, then route to it."""
    make = _New(run, inputs)
    bring = (Step("bring", f"Copy the blueprint to {make.host.name}", make.bring_blueprint),) if inputs.bring else ()
    return Steps(
        (
            *bring,
            Step("clone", "Clone the blueprint", make.clone),
            Step("start", "Start the container", make.start),
            Step("identify", "Create secrets and admin user", make.identify),
            Step("route", "Add route and certificate", make.route),
            probing(make.probe),
        ),
        undo=make.undo,
        commit=PROBE,
    )


class _New:
    """The steps; each looks at the instance, which is labelled with the operation's number, before it acts."""

    def __init__(self, run: Run, inputs: Inputs) -> None:
        self.run = run
        self.inputs = inputs
        self.host = run.fleet.at(inputs.place)
        self.lxd = self.host.lxd
        self.name = inputs.name
        self.blueprint = inputs.blueprint
        self.copy = Copy(self.lxd, inputs.name, run.operation)

    def bring_blueprint(self) -> None:
        bring_blueprint(self.run, self.host, self.blueprint)

    def clone(self) -> None:
        self.copy.make(self._clone, labelled=False)

    def _clone(self) -> None:
        given = self.inputs
        stamped = as_labels(
            role=Role.TENANT,
            tenant=self.name,
            domain=given.domain,
            plan=given.plan,
            version=self.blueprint.version,
            double=self.blueprint.double,
            operation=self.run.operation,
            created=int(self.run.now()),
            note=given.note,
            state=State.NEW,
            slot=slot_of(self.run.operation),
        )
        here = the_blueprint(self.host, self.blueprint)
        self.lxd.copy(
            f"{here.name}/golden",
            self.name,
            config={**stamped, **given.size.limits(), **self._lasting()},
            devices={
                "root": {"type": "disk", "path": "/", "pool": self.run.settings.lxd.pool, "size": given.size.disk}
            },
        )

    def _lasting(self) -> dict[str, str]:
        """Return the configuration that starts the tenant after a reboot, in turn, and protects it from deletion."""
        turn = boot(self.run.settings.capacity, "idle")
        return {"boot.autostart": "true", **turn, "security.protection.delete": "true"}

    def start(self) -> None:
        self.host.start(self.name)

    def identify(self) -> None:
        run, domain = self.run, self.inputs.domain
        known = run.vault.ensure(
            run.operation,
            self.name,
            run.actor.id,
            run.settings.retention.credentials_hours,
            username="admin",
            email=f"admin@{domain}",
            address=run.settings.edge.url(domain) + "/s/login",
        )
        with ThreadPoolExecutor(1, "beside") as beside:
            # The edge learns the route while the container still boots, closed: nobody waits for Caddy later.
            routed = beside.submit(self.run.edge.apply, ahead=self.name)
            self.host.mautic.identity(
                self.name,
                domain=domain,
                site_url=run.settings.edge.url(domain),
                username=known["username"],
                email=known["email"],
                password=known["password"],
                database_password=secrets.token_urlsafe(24),
                secret_key=secrets.token_hex(32),
                size=self.inputs.size,
                edge_address=edge_address(run.settings.lxd.subnet),
                slot=slot_of(run.operation),
            )
            routed.result()

    def route(self) -> None:
        # Only now: the container gets its address while its identity is created.
        wait_for_address(self.lxd, self.name)
        with _TAKING:
            # Another request may have claimed the same domain at the same time.
            there = self.run.fleet.all(Role.TENANT, Role.ARCHIVED)
            opened = [one for one in there if one.state != State.NEW and one.made_by != self.run.operation]
            _refuse_if_taken(opened, self.name, self.inputs.domain)
            self.lxd.update(self.name, {**WHOLE, **as_labels(state=State.LIVE)})
        self.run.edge.apply()

    def probe(self) -> str:
        return see_login_page(self.run.edge, self.inputs.domain)

    def undo(self) -> None:
        try:
            instance = self.copy.found()
        except Refused:
            # The instance is not this operation's, which has created nothing.
            instance = None
        if instance is not None:
            remove(self.lxd, instance.name)
            self.run.edge.apply()
        self.run.vault.forget(self.run.operation)
