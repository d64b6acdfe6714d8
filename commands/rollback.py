"""`/mautic rollback`: return a tenant to the container that its upgrade replaced."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bot.engine import consent, outbound
from bot.engine.consent import Carried
from bot.engine.context import Context, Run
from bot.engine.cutover import Cutover
from bot.engine.outbound import MailOption
from bot.engine.placement import admit, demand_of
from bot.engine.registry import TenantArgument, not_half_way, operation, steps_of
from bot.engine.snapshots import left_behind, ours, safety
from bot.engine.steps import PROBE, probing, refuse_another, refuse_full
from bot.fleet.inventory import Host
from bot.guest.consent import Consent
from bot.guest.mautic import Mail
from bot.lxd.protocol import LxdError
from bot.model.labels import Role, State, as_labels
from bot.model.plan import Plan, Refused, Step, Steps, always, once, require
from bot.model.tenants import PlanSize, Tenant, candidate_name
from bot.model.text import kept_for
from bot.store.metrics import DAY

_WRITTEN = {"contacts": "contact", "submissions": "form submission"}
_UPGRADE, _PATCH, _ROLLBACK = "upgrade", "patch", "rollback"


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from. `retired`: the container from before the upgrade or patch, `version`: its Mautic.

    `since`: when that container was closed (epoch seconds). `size`: the sizes of today's plan, where the retired
    container has another plan; else None. `mail`: what happens to the mail that waits in it. `rests`: the tenant is
    stopped on purpose. `days`: for which the present container is kept. `percent`: the share of all contacts up to
    which opt-outs and erasures are carried over.
    """

    old: Tenant
    retired: str
    version: str
    since: float
    size: PlanSize | None
    mail: Mail
    rests: bool
    days: int
    percent: int

    @property
    def done(self) -> str:
        """What is rolled back, an upgrade or a patch: a patch keeps the version of Mautic."""
        return _PATCH if self.version == self.old.version else _UPGRADE


@not_half_way
@operation
def rollback(context: Context, tenant: TenantArgument, *, mail: MailOption = "") -> Plan:
    """Roll a tenant back to the container from before its upgrade or patch; later changes stay only in the current one.

    A copy of that container starts beside the current one, and traffic is switched only when the copy works. Opt-outs
    and deletions of contacts since then are carried over before any mail is sent; other changes are not. Both
    containers are kept. The approver types the tenant's name and decides on mail that was waiting then and may have
    been sent since: send, drop (kept in a table) or leave outbound mail off. `--mail` proposes one of these; without a
    choice outbound mail stays off if any mail waits.
    """
    old = context.fleet.tenant(tenant)
    host = context.fleet.of(old)
    retired = _retired(context, old)
    since, patched = _since(host, retired, context.now()), retired.replaced_by == _PATCH
    done, back = (_PATCH, "its earlier Debian packages") if patched else (_UPGRADE, f"Mautic {retired.version}")
    rests = old.stopped and old.status != "Running"
    demand = demand_of(context, old, host, candidate_name(tenant, context.operation), beside=not rests)
    days = context.settings.retention.retired_days
    percent = context.settings.rollback.carried
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "mail": mail},
        summary=f"Roll tenant {tenant} back to {back}",
        facts={
            "From": old.version,
            "To": f"{retired.version}, as it was at the {done}",
            "Patched" if patched else "Upgraded": context.renderer.moment(since),
            **({"Afterwards": f"{tenant} runs (stopped now)"} if rests else {}),
            "Safety snapshot": "of the previous container, with all changes until the switch",
            "Previous container": f"kept, stopped, {kept_for(days)}",
            "Rollback": "automatic" + ("" if rests else f", {tenant} keeps running in the current container"),
        },
        values={
            "from": old.version,
            "to": retired.version,
            "container": retired.instance,
            "since": int(since),
            "rests": rests,
            "days": days,
        },
        texts={"back": back},
        first=("Data loss",),
        until_done=("Rollback", "Afterwards"),
        requires=(
            always(refuse_another, context, old),
            require(old.state != State.SUSPENDED, f"`{tenant}` is suspended; `/mautic resume {tenant}` first."),
            once(refuse_full, context, old),
            once(_loss, host, old, since, done),
            once(_consent, host, old, since, percent, done),
            once(_mail, context, host, old, since, done, mail),
            once(left_behind, context, old),
            always(admit, context, host, demand, f"The earlier container of `{tenant}` cannot start on"),
        ),
        inputs=Inputs(
            old,
            retired.instance,
            retired.version,
            since,
            context.settings.plans.get(old.plan) if retired.plan != old.plan else None,
            mail or ("off" if old.outbound_off else ""),
            rests,
            days,
            percent,
        ),
        demand=demand.stored(),
        choice=outbound.CHOICE,
        reversible="can be undone with `restore` to the safety snapshot",
        seconds=20,
        cutover=_ROLLBACK,
    )


def _retired(context: Context, old: Tenant) -> Tenant:
    """Return the container replaced by the newest upgrade or patch that is not rolled back yet, or raise Refused."""
    retired = [
        one
        for one in context.fleet.inventory(Role.RETIRED).tenants
        if (one.name, one.server, one.host) == (old.name, old.server, old.host) and one.instance != old.instance
    ]
    upgrades: list[Tenant] = []
    for one in sorted(retired, key=lambda one: one.replaced_in):
        if one.replaced_by in (_UPGRADE, _PATCH):
            upgrades.append(one)
        elif one.replaced_by == _ROLLBACK and upgrades:
            upgrades.pop()
    if not upgrades or (upgrades[-1].version == old.version and upgrades[-1].replaced_by != _PATCH):
        raise Refused(
            f"No container from before an upgrade or patch of `{old.name}` is left on {old.host}; "
            f"`/mautic snapshots {old.name}` lists what `/mautic restore {old.name} <snapshot>` can return to."
        )
    return upgrades[-1]


def _since(host: Host, retired: Tenant, now: float) -> float:
    """Return when a retired container was closed (epoch seconds), by the safety snapshot taken at its replacement.

    Without that snapshot the result is rather too early: then more is counted, and what is there already is not carried
    twice. A clock that was ahead must not make the result too late: what contacts said in between would be lost.
    """
    why = safety(retired.replaced_by, retired.replaced_in)
    taken = [one.at for one in ours(host.lxd.snapshots(retired.instance)) if one.why == why and one.at <= now]
    if taken:
        return float(taken[0])
    return float(max(0, retired.retired - DAY)) if retired.retired <= now else 0.0


def _cannot(old: Tenant) -> str:
    return f"{old.name} cannot be asked" if old.running else f"{old.name} is stopped"


def _loss(host: Host, old: Tenant, since: float, done: str) -> dict[str, str]:
    """Return what the tenant will lose, in words; `done`: what is rolled back."""
    try:
        counts = host.mautic.counts(old.instance, since=since)
    except LxdError:
        return {"Data loss": f":warning: everything since the {done} ({_cannot(old)}, so it cannot be counted)"}
    told = ", ".join(f"{counts[name]} {word}{'' if counts[name] == 1 else 's'}" for name, word in _WRITTEN.items())
    return {"Data loss": f":warning: {told} since the {done}, and all other changes"}


def _consent(host: Host, old: Tenant, since: float, percent: int, done: str) -> dict[str, str]:
    """Return in words which opt-outs and deletions will be carried back, and which not."""
    off = "outbound mail stays off"
    try:
        found = Consent(host.mautic).count(old.instance, since)
    except LxdError:
        why = f"({_cannot(old)}, so they cannot be counted)"
        return {"Carried back": f":warning: opt-outs and deletions {why}; where they cannot be read, {off}"}
    if many := consent.too_many(found, percent, done):
        return {"Carried back": f":warning: {'; '.join(many.values())}; {off}"}
    return {"Carried back": f"{consent.in_words(found.opt_outs, found.erasures)} (so far)"}


def _mail(context: Context, host: Host, old: Tenant, since: float, done: str, mail: str) -> dict[str, str]:
    """Return which mail may be sent twice: what was sent since the upgrade or patch, and what waited at that time."""
    none = f"e-mails that were waiting at the {done} may be sent again"
    again = f"sent since the {done} may be sent again, and so may e-mails that were waiting then"
    try:
        now = host.mautic.mail(old.instance, since=since)
        sent = now["sent"]
        twice = f"{sent} e-mail{'' if sent == 1 else 's'} {again}" if sent else none
        words = f"{twice}. Now: {outbound.told(context, now)}"
    except LxdError:
        words = f"e-mails {again} (cannot be counted now)"
    return outbound.remarks(words, mail, first=f"outbound mail stays off if mail waited at the {done}")


@steps_of(rollback)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Copy the retired container; carry consent while the present one serves, and again once that is closed."""
    back = _Rollback(run, inputs)
    return Steps(
        (
            Step("beside", "Start the earlier container", back.beside),
            Step("change", "Carry opt-outs and deletions, and switch traffic", back.change),
            probing(back.cutover.probe),
            Step(
                "keep",
                "Keep the previous container with a safety snapshot",
                back.cutover.keep_with_snapshot,
                takes_snapshot=True,
            ),
        ),
        undo=back.cutover.roll_back,
        commit=PROBE,
    )


class _Rollback:
    """The steps; each looks at what is there before it acts."""

    def __init__(self, run: Run, inputs: Inputs) -> None:
        self.run = run
        self.inputs = inputs
        self.old = inputs.old
        self.host = run.fleet.of(inputs.old)
        self.cutover = Cutover(run, inputs.old, self.host, _ROLLBACK, days=inputs.days, rests=inputs.rests)
        self._carried: Carried | None = None

    def _copy(self, config: Mapping[str, str], devices: Mapping[str, Mapping[str, str]]) -> None:
        # The copy is not retired, and has the earlier version of Mautic.
        own = as_labels(
            version=self.inputs.version, kept_until="", retired="", reason="", replaced_by="", replaced_in=""
        )
        self.host.lxd.copy(self.inputs.retired, self.cutover.name, config={**config, **own}, devices=devices)

    def beside(self) -> str:
        """Prepare the candidate in one step that leaves the present container alone, as a person waits for it."""
        with ThreadPoolExecutor(1, "beside") as threads:
            self.cutover.make(self._copy)
            self.cutover.boot()
            of_people = threads.submit(self._settle)
            self.cutover.await_page()
            if self.inputs.size:
                self.host.mautic.resize(self.cutover.name, self.inputs.size)
            return "; ".join(of_people.result())

    def _settle(self) -> list[str]:
        """Carry the opt-outs and erasures so far, and settle the waiting mail, while nothing runs in the copy."""
        if self.cutover.serves():
            return []
        self.host.mautic.mute(self.cutover.name)
        self._carried = self._carry(self.inputs.since - consent.MARGIN)
        mail: Mail = "off" if self._carried.left else self.inputs.mail
        settled = outbound.settle(self.run, self.host, self.cutover.name, mail, late=0)
        return [self._carried.told(), *([settled] if settled else [])]

    def _carry(self, since: float, *, final: bool = False) -> Carried:
        source, target = self.old.instance, self.cutover.name
        return consent.carry(self.host, source, target, since, self.inputs.percent, self.inputs.done, final=final)

    def change(self) -> str | None:
        """Close the present container, carry the opt-outs and erasures until then, and switch.

        Clients see a maintenance page meanwhile, so what was carried before is not read again.
        """
        if self.cutover.serves():
            self.cutover.switch()
            return None
        before = self._carried
        # An interrupted switch may have opened the copy; no traffic was routed there yet.
        self.host.mautic.close_copy(self.cutover.name)
        self.cutover.silence()
        since = self.inputs.since - consent.MARGIN
        if before and not before.left:
            since = max(0.0, before.now - consent.OVERLAP)
        carried = self._carry(since, final=True)
        if carried.left or (before and before.left):
            mail: Mail = "off" if carried.left else self.inputs.mail
            outbound.settle(self.run, self.host, self.cutover.name, mail, late=0)
        self.cutover.switch()
        return carried.told()
