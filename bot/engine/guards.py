"""Guards: reasons not to make a change now. Each has a key, and is asked only here, at five moments.

A guard raises Refused, in one sentence that names the reason and the way out. At each moment its refusal is either
final, and ends what was asked for, or only a wait: an approval is refused but the request stays open, an operation
stays in the queue. An operation that has begun goes on to its end, or is rolled back: guards then apply only to a
retry. Longer than other modules, so that the table and the functions in its rows can be read together.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from bot.engine.comparison import COMPARED, PENDING
from bot.engine.context import THE_BOT, Context
from bot.engine.placement import overloaded
from bot.engine.times import hours_of
from bot.lxd.protocol import LxdUnavailable
from bot.model.actor import Actor
from bot.model.labels import Role, State
from bot.model.plan import NotNow, Refused
from bot.model.text import person
from bot.store.claims import Hold, has_missed_its_time
from bot.store.freezes import Freezes
from bot.store.operation import IS_UNDER_WAY, SYSTEM, Operation

log = logging.getLogger(__name__)
SLOW = 1.0
"""Seconds after which a host counts as slow to tell whether it is overloaded."""
ASKED_AGAIN = 10.0
"""Seconds after which a slow host is asked again whether it is overloaded, and a sending tenant how much is due."""
COUNTED = 20_000
"""The most contacts that a tenant counts (`MOST` in `mautic_ctl/outbound.py`)."""
STALLED = 1200.0
"""Seconds after which an unchanged number of contacts without their segment email no longer counts as a send under way.
Some never get it, because a segment excludes them or they had the email in another language."""
ANSWERS = "Try again when the server answers; check with `/mautic doctor`."
"""The way out where a silent server prevents a change."""
_ANY = tuple(Role)


class Moment(StrEnum):
    """The moments at which guards are asked."""

    REQUEST = "request"
    """A person requests the change."""
    APPROVAL = "approval"
    """A person approves the request."""
    CLAIM = "claim"
    """The runner is about to begin the operation."""
    RETRY = "retry"
    """A person retries the operation."""
    MAINTENANCE = "maintenance"
    """The bot is about to make the change by itself."""


@dataclass(frozen=True)
class Change:
    """A change that is about to be made.

    Args:
        tenant: "" if none is named yet.
        actor: who requests, approves or retries it.
        operation: the stored operation; None while there is none yet.
        planned: its plan was built, so that it is about to be stored.
        passes: it is over in minutes, so that a request which waits for approval does not block it.
        safety: it protects data, so that a freeze does not stop the bot from making it by itself.
        host: for maintenance, the host to which it adds load.
    """

    command: str
    tenant: str
    actor: Actor = THE_BOT
    operation: Operation | None = None
    planned: bool = False
    passes: bool = False
    safety: bool = False
    host: str = ""

    @classmethod
    def of(cls, operation: Operation, actor: Actor = THE_BOT) -> Change:
        """Return the change that an operation makes."""
        own = operation.requester == SYSTEM
        safety = own and bool(operation.plan.get("safety"))
        return cls(operation.command, operation.tenant, actor, operation, planned=True, safety=safety)

    @property
    def begun(self) -> bool:
        """Whether the change is half done or being undone."""
        return self.operation is not None and bool(self.operation.begun or self.operation.undo_by)

    @property
    def number(self) -> int:
        """The operation's number, 0 while there is none."""
        return self.operation.id if self.operation else 0


@dataclass(frozen=True)
class Guard:
    """One guard. `asks`: its check at each moment that concerns it; `waits`: when its refusal is only a wait.

    `last`: asked once no other guard makes the operation wait, because it asks Slack, which may take minutes. `again`:
    asked once more after that, because people may have acted meanwhile; it reads only the bot's own data.
    """

    key: str
    asks: Mapping[Moment, Callable[[Guards, Change], None]]
    waits: frozenset[Moment] = frozenset()
    last: bool = False
    again: bool = False


class Guards:
    """Asks the guards. `keep`: seconds for which a host's overload and a tenant's due mail are cached."""

    def __init__(self, context: Context, keep: float = 0.0) -> None:
        self.context = context
        self.freezes = Freezes(context.operations)
        self.keep = keep
        self._overload: dict[str, tuple[float, str]] = {}
        self._due: dict[str, tuple[float, int]] = {}
        self._unsent: dict[str, tuple[int, float]] = {}

    def refuse(self, moment: Moment, change: Change, *only: str) -> None:
        """Raise the refusal of the first guard that objects: NotNow if waiting helps.

        `only`: the keys of the guards to ask; none: all.
        """
        for guard in GUARDS.values():
            if not only or guard.key in only:
                self._ask(guard, moment, change)

    def hold(self, operation: Operation) -> Hold | None:
        """Return why an operation has to wait although its turn has come, or None."""
        for guard in GUARDS.values():
            if Moment.CLAIM in guard.waits and not guard.last:
                try:
                    self._ask(guard, Moment.CLAIM, Change.of(operation))
                except Refused as no:
                    # The bot requests again what is due then; a waiting operation would block the tenant's snapshots.
                    ours = guard.key in (FREEZE, COMPARED) and operation.requester == SYSTEM
                    ends = ours or isinstance(no, _Missed)
                    return Hold(guard.key, str(no), no.typed, ends)
        return None

    def may_begin(self, operation: Operation) -> bool:
        """Return whether the guards that are asked last let an operation begin. Raises Refused if that is unknown."""
        try:
            for guard in GUARDS.values():
                if guard.last:
                    self._ask(guard, Moment.CLAIM, Change.of(operation))
        except _Unapproved:
            return False
        return True

    def may_still_begin(self, operation: Operation) -> bool:
        """Return whether nobody has frozen the tenant, or begun work in it, since the other guards were asked."""
        try:
            for guard in GUARDS.values():
                if guard.again:
                    self._ask(guard, Moment.CLAIM, Change.of(operation))
        except Refused:
            return False
        return True

    def refuse_to_begin(self, operation: Operation) -> None:
        """Raise Refused when a guard ends a claimed operation that has not started."""
        for guard in GUARDS.values():
            if Moment.CLAIM not in guard.waits:
                self._ask(guard, Moment.CLAIM, Change.of(operation))

    def _ask(self, guard: Guard, moment: Moment, change: Change) -> None:
        if moment not in guard.asks or (change.begun and moment != Moment.RETRY):
            return
        try:
            guard.asks[moment](self, change)
        except Refused as no:
            no.guard = guard.key
            if moment in guard.waits and not isinstance(no, NotNow | _Missed):
                raise NotNow.of(no) from no
            raise

    def overload(self, host: str) -> str:
        """Return why a host is overloaded, or "" if it is not."""
        until, why = self._overload.get(host, (0.0, ""))
        if time.monotonic() >= until:
            began = time.monotonic()
            why = overloaded(self.context, host)
            # An unreachable host takes long to fail, and the rest of the queue must not wait for that each time.
            keep = ASKED_AGAIN if time.monotonic() - began > SLOW else self.keep
            self._overload[host] = time.monotonic() + keep, why
        return why

    def due(self, tenant: str) -> int:
        """Return how many e-mails a tenant is about to send; 0 if that is unknown, or outbound mail is off."""
        until, due = self._due.get(tenant, (0.0, 0))
        if time.monotonic() >= until:
            due = self._sending(tenant)
            # Each look starts a process in the tenant, and each pass through the queue would cause one.
            self._due[tenant] = time.monotonic() + (self.keep or (ASKED_AGAIN if due else 0.0)), due
        return due

    def _sending(self, tenant: str) -> int:
        if not (told := _due(self.context, tenant)):
            return 0
        # Mail that waits for its day, such as a campaign's event, is not a send under way.
        queued, unsent = (int(told.get(kind, 0)) for kind in ("queue", "broadcasts"))
        known, since = self._unsent.get(tenant, (-1, 0.0))
        # Beyond the counting limit, nobody knows whether the number shrinks.
        stands = unsent == known and unsent < COUNTED
        self._unsent[tenant] = unsent, since if stands else time.monotonic()
        return queued + (unsent if time.monotonic() - self._unsent[tenant][1] < STALLED else 0)


# -- policy: who may request, decide and retry ------------------------------------------------------------------------


class _Unapproved(NotNow):
    """The operation waits for approval again."""


def _may_ask(guards: Guards, change: Change) -> None:
    guards.context.approvals.refuse_to_ask(change.command, change.actor)


def _may_approve(guards: Guards, change: Change) -> None:
    if change.operation:
        guards.context.approvals.refuse_to_decide(change.operation, change.actor)


def _is_approved(guards: Guards, change: Change) -> None:
    """Send an operation back for approval when it now lacks one."""
    if change.operation and not guards.context.approvals.approvers.confirm(change.operation):
        raise _Unapproved(f"{change.operation.headed} is waiting for approval again.")


def _may_retry(guards: Guards, change: Change) -> None:
    if change.operation and change.operation.requester != SYSTEM:
        guards.context.approvals.refuse_to_retry(change.operation, change.actor)


# -- freeze: only changes that keep tenants safe are made -------------------------------------------------------------


def _frozen(guards: Guards, change: Change) -> None:
    """Refuse new changes of a frozen tenant; finishing or undoing a half-done one is allowed."""
    found = None if change.begun or change.safety else guards.freezes.on(change.tenant)
    if found is None:
        return
    until = f" until {guards.context.renderer.moment(found.until)}" if found.until else ""
    ends = found.to_end(guards.context.settings.policy("unfreeze").ask)
    no = Refused(f"{found.what} frozen by {person(found.by)}{until} because {found.reason}. {ends}")
    no.typed = found.reason
    raise no


# -- compared: whether the database is the newest one, and not from a backup -------------------------------------------


def _not_compared(guards: Guards, change: Change) -> None:
    """Refuse new changes until the audit log was compared with its heads in Slack; a freeze refuses the same ones."""
    if not (guards.context.operations.compared or change.begun or change.safety):
        raise Refused(PENDING)


# -- busy: another operation locks the tenant, or a Mautic command runs in it -----------------------------------------


def _busy_to_ask(guards: Guards, change: Change) -> None:
    if change.planned and change.tenant:
        operations = guards.context.operations
        if change.passes:
            operations.refuse_if_busy(change.tenant, holds=IS_UNDER_WAY)
        else:
            operations.wait_for_maintenance(change.tenant)
            operations.refuse_if_busy(change.tenant)


def _busy_to_approve(guards: Guards, change: Change) -> None:
    guards.context.operations.refuse_if_busy(change.tenant, change.number, holds=IS_UNDER_WAY)


def _busy_to_begin(guards: Guards, change: Change) -> None:
    if doing := guards.context.operations.at_work.on(change.tenant):
        raise Refused(
            f"{doing} in `{change.tenant}` and locks the tenant. The operation starts when that has finished."
        )


def _busy_to_retry(guards: Guards, change: Change) -> None:
    guards.context.operations.refuse_if_busy(change.tenant, change.number)


# -- half-way: a restore or move left the tenant unfinished, and no operation knows of it -----------------------------


def _half_way(guards: Guards, change: Change) -> None:
    """Refuse to delete, close or replace a tenant whose site another container may serve."""
    if not change.tenant or not guards.context.registry.commands[change.command].not_half_way:
        return
    for one in guards.context.fleet.inventory(Role.TENANT).tenants:
        if (one.name, one.state) == (change.tenant, State.MOVING):
            raise Refused(
                f"A move, restore or upgrade of `{one.name}` was interrupted. To bring the site online: "
                f"`/mautic start {one.name}`"
            )


# -- silent: the tenant may be on a server that does not answer -------------------------------------------------------


def _silent(guards: Guards, change: Change) -> None:
    fleet = guards.context.fleet
    seen = fleet.inventory(*_ANY) if change.tenant else None
    if seen is None or any(one.name == change.tenant for one in seen.tenants):
        return
    try:
        fleet.require_all_answered(seen)
    except LxdUnavailable as error:
        raise Refused(f"{error} {ANSWERS}") from error


# -- memory: the host has enough free memory, and is not overloaded ---------------------------------------------------


def _no_memory_to_begin(guards: Guards, change: Change) -> None:
    """Make operations that need memory wait while a host is overloaded; for a full one, the plan raises NoSpace."""
    demand = change.operation.plan.get("demand") if change.operation else None
    if demand and demand["memory"] and (why := guards.overload(demand["host"])):
        raise Refused(f"`{demand['host']}` is overloaded: {why}. The operation starts when the host recovers.")


def _no_memory_for_maintenance(guards: Guards, change: Change) -> None:
    if change.host and (why := guards.overload(change.host)):
        raise Refused(f"`{change.host}` is overloaded: {why}.")


# -- time, window, sending: clients are offline at a suitable moment --------------------------------------------------


class _Missed(Refused):
    """The operation's time has passed, so it is cancelled."""


def _too_early_or_late(guards: Guards, change: Change) -> None:
    context, operation = guards.context, change.operation
    if operation and context.now() < operation.at:
        raise Refused(f"The operation starts {context.renderer.moment(operation.at)}.")
    if operation and has_missed_its_time(context.operations, operation):
        at = context.renderer.moment(operation.at)
        raise _Missed(f"Its time, {at}, passed while the bot was not running or could not reach Slack.")


def _outside_hours(guards: Guards, change: Change) -> None:
    context = guards.context
    hours, zone = hours_of(context), context.renderer.zone
    if _can_wait(change) and hours and not hours.has(context.now(), zone):
        begins = context.renderer.moment(hours.next(context.now(), zone))
        raise Refused(f"Upgrades start between {hours} (`upgrades.window`); the operation starts {begins}.")


def _while_sending(guards: Guards, change: Change) -> None:
    """Make an operation that closes a tenant wait while the tenant sends mail; if that is unknown, nothing waits."""
    if _can_wait(change) and (due := guards.due(change.tenant)):
        raise Refused(
            f"`{change.tenant}` is sending: {due} e-mail{'s are' if due != 1 else ' is'} due. The operation starts "
            "when nothing is due any more."
        )


def _due(context: Context, tenant: str) -> Mapping[str, int]:
    """Return how much mail waits, by kind; {} if outbound mail is off, or the number is unknown."""
    try:
        found = context.fleet.tenant(tenant)
        told = context.fleet.of(found).mautic.mail(found.instance, timeout=SLOW * 10) if found.running else {}
    except Exception as error:
        # An unknown number delays nothing, whatever went wrong; the steps will find out.
        log.info("whether %s is sending is not known: %s", tenant, error)
        return {}
    return told["kinds"] if told and not told["off"] else {}


def _can_wait(change: Change) -> bool:
    return bool(change.operation and change.operation.plan.get("can_wait"))


FREEZE = "freeze"
_ALL = (
    Guard(
        "policy",
        {
            Moment.REQUEST: _may_ask,
            Moment.APPROVAL: _may_approve,
            Moment.CLAIM: _is_approved,
            Moment.RETRY: _may_retry,
        },
        waits=frozenset({Moment.CLAIM}),
        last=True,
    ),
    Guard("time", {Moment.CLAIM: _too_early_or_late}, waits=frozenset({Moment.CLAIM})),
    Guard("window", {Moment.CLAIM: _outside_hours}, waits=frozenset({Moment.CLAIM})),
    Guard(FREEZE, dict.fromkeys(Moment, _frozen), waits=frozenset({Moment.APPROVAL, Moment.CLAIM}), again=True),
    Guard(
        COMPARED,
        # Decisions, denials too, are refused by `Approvals.decide`.
        dict.fromkeys((Moment.CLAIM, Moment.RETRY, Moment.MAINTENANCE), _not_compared),
        waits=frozenset({Moment.CLAIM}),
    ),
    Guard(
        "busy",
        {
            Moment.REQUEST: _busy_to_ask,
            Moment.APPROVAL: _busy_to_approve,
            Moment.CLAIM: _busy_to_begin,
            Moment.RETRY: _busy_to_retry,
            Moment.MAINTENANCE: _busy_to_approve,
        },
        waits=frozenset({Moment.APPROVAL, Moment.CLAIM}),
        again=True,
    ),
    Guard("half-way", {Moment.REQUEST: _half_way, Moment.APPROVAL: _half_way, Moment.CLAIM: _half_way}),
    Guard(
        "silent",
        {Moment.REQUEST: _silent, Moment.APPROVAL: _silent, Moment.CLAIM: _silent},
        waits=frozenset({Moment.APPROVAL}),
    ),
    Guard(
        "memory",
        {Moment.CLAIM: _no_memory_to_begin, Moment.MAINTENANCE: _no_memory_for_maintenance},
        waits=frozenset({Moment.APPROVAL, Moment.CLAIM}),
    ),
    Guard("sending", {Moment.CLAIM: _while_sending}, waits=frozenset({Moment.CLAIM})),
)
GUARDS: Mapping[str, Guard] = {guard.key: guard for guard in _ALL}
"""All guards by key, in the order in which they are asked."""
