"""Approvals: who may decide on a request, one winner per decision, expiry. A request and its operation are one row.

Longer than other modules, because its one class is.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Literal, NoReturn
from zoneinfo import ZoneInfo

from bot.engine.approvers import Approvers, approvals
from bot.engine.comparison import COMPARED, PENDING
from bot.model.actor import Actor
from bot.model.plan import NotNow, Refused
from bot.model.text import clip, code, line, names, seconds, shown_moment
from bot.model.words import heard
from bot.settings import Policy, Settings
from bot.store import audit, batches, recovery
from bot.store.operation import SYSTEM, Operation
from bot.store.operations import Operations, TenantBusy

Verdict = Literal["approve", "deny"]
_REPLY = re.compile(
    r"(?P<approve>approved?)(?:\s+(?P<typed>\S{1,100}?))?(?:\s+(?P<choice>send|drop|off))?[.!]*\Z"
    r"|(?P<deny>deny|denied)\b[\s,:]*(?P<reason>.*)"
    r"|(?P<cancel>cancel)[.!]*\Z",
    re.I | re.S,
)
"""The exact grammar of a decision typed in a thread: `approve if it rains` is not an approval."""
_YES = re.compile(
    r"ok|okay|yes|yep|yeah|sure|lgtm|approved?|go|ship|\+1|:(\+1|thumbsup|white_check_mark|heavy_check_mark):"
    r"|[\U0001f44d\U0001f44c\u2705\u2714]"
)
_BESIDE = re.compile(r"please|thanks|thank|you|it|this|that|for|from|by|me|ahead|do|looks|good|fine|all|and")
"""`_YES`: words that mean an approval; `_BESIDE`: words that may surround them. A reply with any other word is
conversation, and is not stored."""
CONFIRM = 3600.0
"""Seconds of uptime after which a request expires whose time is over by the wall clock alone."""
REASON = 500
"""Characters of a reason that are kept."""


def decision(text: str) -> re.Match[str] | None:
    """Return what a reply decides (groups: approve, typed, choice; deny, reason; cancel), or None."""
    return _REPLY.match(heard(text))


def almost(text: str) -> bool:
    """Return whether a reply reads like an approval but does not count as one, such as `ok` or `approve it please`."""
    if decision(text) is not None:
        return False
    plain = re.sub(r"[\U0001f3fb-\U0001f3ff\ufe0f]|:skin-tone-\d:", "", heard(text).lower())
    said = re.split(r"[\s,.!]+", re.sub(r"([\U0001f44d\U0001f44c\u2705\u2714])", r" \1 ", plain).strip(" \n,.!"))
    meant = [word for word in said if _YES.fullmatch(word)]
    return bool(meant) and len(said) <= 8 and all(word in meant or _BESIDE.fullmatch(word) for word in said)


class Approvals:
    """Decides on requests. Longer than other classes: each decision is made on the same row, under the same lock.

    Args:
        check: builds the plan again for the approver, and returns whether the plan still does the same; raises Refused
            (NotNow: the request keeps waiting).
        roles: returns the roles that an earlier approver has now; raises Refused if Slack does not answer.
    """

    def __init__(
        self,
        operations: Operations,
        settings: Settings,
        check: Callable[[Operation, Actor], bool],
        roles: Callable[[str], frozenset[str]],
    ) -> None:
        self.operations = operations
        self.settings = settings
        self.check = check
        self.approvers = Approvers(operations, settings, roles)
        self._approving = threading.Lock()

    def refuse_to_ask(self, command: str, actor: Actor) -> None:
        """Raise Refused when the policy does not allow this person to request the command."""
        policy = self.settings.policy(command)
        if not policy.ask:
            raise Refused(f"`{command}` is switched off: the settings allow no role to request it.")
        if not actor.roles & set(policy.ask):
            raise Refused(f"You can't use `{command}`. Ask {names(policy.ask)}.")

    def refuse_to_decide(self, operation: Operation, actor: Actor) -> None:
        """Raise Refused when the policy does not let this person decide on the request, or it is their own."""
        may = self.settings.policy(operation.command).approve
        if not actor.roles & set(may):
            raise Refused(f"Only {names(may, 2)} can decide on {operation.named}.")
        if actor.id == operation.requester:
            raise Refused(
                f"You can't decide on your own request: another {' or '.join(may)} has to. To cancel the request: "
                f"`/mautic cancel {operation.id}`"
            )

    def refuse_to_retry(self, operation: Operation, actor: Actor) -> None:
        """Raise Refused when this person may not retry the operation, or its approval is no longer enough.

        A person may retry what they may request; a batch that somebody stopped, only if they may also approve it. The
        approvals of a failed operation must be recent, and enough of them must still count.
        """
        self.refuse_to_ask(operation.command, actor)
        again = operation.again_at(self.operations.clock())
        by = batches.stopped_by(self.operations, operation)
        if by and not actor.roles & set(self.settings.policy(operation.command).approve):
            raise Refused(f"<@{by}> stopped this batch. Please request it again: `/mautic {again}`")
        hours = self.settings.policy(operation.command).hours
        approved = max((decision.at for decision in operation.decisions), default=operation.created)
        now, asking = self.operations.clock(), f"Please request it again: `/mautic {again}`"
        if operation.state == "failed" and now >= approved + hours * 3600:
            raise Refused(f"This approval is older than {hours:g} h. {asking}")
        if operation.state == "failed" and approved > now:
            raise Refused(f"This approval was recorded by a clock that was ahead, so its age is not known. {asking}")
        if operation.state == "failed" and (missing := self.approvers.missing(operation)):
            raise Refused(
                f"`{operation.command}` now needs {missing} more {approvals(missing)} than {operation.named} has from "
                f"people who may still approve. {asking}"
            )

    def refuse_to_give_up(self, operation: Operation, actor: Actor) -> None:
        """Raise Refused unless the operation needs action, and this person is among its responders and approvers."""
        may = {*self.settings.policy("give-up").ask, *self.settings.policy(operation.command).approve}
        if not actor.roles & may:
            raise Refused(f"Only {names(sorted(may), 2)} can give up {operation.named}.")
        if operation.state != "needs_attention":
            raise Refused(f"{operation.headed} {operation.standing}. Only a request that needs action can be given up.")

    def give_up(self, operation: Operation, actor: Actor, reason: str, left: str) -> None:
        """Give up an operation that needs action, or raise Refused; `left`: what exists of its tenant, in words."""
        self.refuse_to_give_up(operation, actor)
        reason = _reason(reason)
        if not reason:
            raise Refused(f"Add a reason for the audit log: `/mautic give-up {operation.id} because <reason>`")
        recovery.give_up(self.operations, operation, actor.id, reason, left)

    def decide(
        self,
        number: int,
        actor: Actor,
        verdict: Verdict,
        *,
        reason: str = "",
        typed_name: str = "",
        choice: str = "",
        via: str,
    ) -> Operation:
        """Approve or deny a request, or raise Refused with the reason, which for a late decision is the earlier one.

        `choice`: what the approver chose, if the plan leaves something to them; it is stored in the operation.
        """
        operation = self.operations.get(number)
        policy = self.settings.policy(operation.command, batch=operation.in_batch)
        self._refuse_unless_pending(operation, actor, verdict)
        self.refuse_to_decide(operation, actor)
        if not self.operations.compared:
            no = NotNow(f"{PENDING} {operation.headed} still waits for approval.")
            no.guard = COMPARED
            raise no
        if verdict == "deny":
            reason = _reason(reason)
            return self._write(operation, actor, "deny", reason, via, policy)
        if choice and choice not in operation.options:
            name = f" {operation.confirmation}" if policy.step_up else ""
            offered = " or ".join(f"`approve{name} {option}`" for option in operation.options)
            offered = offered or f"`approve{name}`"
            raise Refused(f"“{choice[:20]}” is not an option of {operation.named}. Reply {offered}.")
        if policy.step_up == "typed-name" and typed_name.strip().lower() != operation.confirmation:
            what = "the number of tenants" if operation.children else "the tenant name"
            raise Refused(
                f"To approve {operation.named}, add {what}: reply `approve {operation.confirmation}` in the thread, or "
                f"type `/mautic approve {number} {operation.confirmation}`."
            )
        # The bot keeps taking its own snapshots while a request waits, so one may be under way.
        self.operations.wait_for_maintenance(operation.tenant)
        # Requests that take memory are approved one at a time, so that each sees what the last was promised.
        with self._approving if operation.plan.get("demand") else nullcontext():
            return self._approve(operation, actor, reason, via, policy, choice)

    def _approve(
        self, operation: Operation, actor: Actor, reason: str, via: str, policy: Policy, choice: str
    ) -> Operation:
        try:
            same = self.check(operation, actor)
        except NotNow as error:
            raise NotNow.of(error, f"{error} {operation.headed} still waits for approval.") from error
        except Refused as error:
            self._drifted(operation, actor, str(error))
        if not same:
            self._drifted(operation, actor, "The same command would now do something else.")
        lost = self.approvers.lost(operation)
        try:
            return self._write(operation, actor, "approve", reason, via, policy, choice, lost)
        except sqlite3.IntegrityError as error:
            self.operations.refuse_if_busy(operation.tenant, but=operation.id)
            raise TenantBusy(f"`{operation.tenant}` is busy for a moment. Try again.") from error

    def _drifted(self, operation: Operation, actor: Actor, why: str) -> NoReturn:
        """Cancel a request whose plan has changed, tell its requester, and raise Refused for the approver."""
        with self.operations.database.transaction() as transaction:
            moved = self.operations.move(
                transaction,
                operation,
                "cancelled",
                event="operation.drifted",
                actor=actor.id,
                expect=("awaiting_approval",),
                detail={"why": why},
                note=f":twisted_rightwards_arrows: <@{operation.requester}>, cancelled: the plan no longer matches "
                f"what you requested. {line(why)} Request again: {code('/mautic ' + operation.again)}",
                outcome=why,
                finished=self.operations.clock(),
            )
        if not moved:
            raise Refused(f"{operation.headed} {self.operations.get(operation.id).standing}.")
        self.operations.changed()
        raise Refused(
            f"{operation.headed} was cancelled: the plan no longer matches what was requested. {why} Request again: "
            f"`/mautic {operation.again}`"
        )

    def _refuse_unless_pending(self, operation: Operation, actor: Actor, verdict: Verdict) -> None:
        if operation.state != "awaiting_approval":
            raise Refused(f"{operation.headed} {operation.standing}.")
        if self._is_over(operation) or self.operations.clock() >= operation.expires:
            self.expire()
            again = operation.again_at(self.operations.clock())
            raise Refused(f"{operation.headed} has expired. Please request it again: `/mautic {again}`")
        for decision in operation.decisions:
            if decision.actor == actor.id and decision.verdict == verdict:
                raise Refused(f"You have already approved {operation.named}. One more person has to approve.")

    def _write(
        self,
        operation: Operation,
        actor: Actor,
        verdict: Verdict,
        reason: str,
        via: str,
        policy: Policy,
        choice: str = "",
        lost: Sequence[str] = (),
    ) -> Operation:
        now = self.operations.clock()
        detail = {"reason": reason, "via": via} | ({"choice": choice} if choice else {})
        chosen = f": {operation.options[choice]}" if choice else ""
        with self.operations.database.transaction() as transaction:
            # Nobody else decides while this holds the write lock: what is read here is true until the commit.
            row = transaction.execute("SELECT state FROM operations WHERE id = ?", (operation.id,)).fetchone()
            if won := row["state"] == "awaiting_approval":
                self.approvers.forget(transaction, operation, lost)
                if choice:
                    self._choose(transaction, operation, choice)
                self._enter(transaction, operation, actor, verdict, reason, via, now)
                given = transaction.execute(
                    "SELECT count(*) FROM decisions WHERE operation = ? AND verdict = 'approve'",
                    (operation.id,),
                ).fetchone()[0]
                if verdict == "deny":
                    because = clip(line(reason), 2000).rstrip(".") if reason else "_no reason given_"
                    self.operations.move(
                        transaction,
                        operation,
                        "denied",
                        event="operation.denied",
                        actor=actor.id,
                        expect=("awaiting_approval",),
                        detail=detail,
                        note=f":no_entry: <@{operation.requester}>, <@{actor.id}> denied your request "
                        f"“{line(operation.plan['summary'])}”: {because}. Nothing was changed.",
                        outcome=f"Denied: {reason}" if reason else "Denied",
                        finished=now,
                    )
                elif given >= policy.approvals:
                    self.operations.move(
                        transaction,
                        operation,
                        "queued",
                        event="operation.approved",
                        actor=actor.id,
                        expect=("awaiting_approval",),
                        detail=detail,
                        note=f":white_check_mark: <@{actor.id}> approved{chosen}. {self._starts(operation)}",
                        # It can be cancelled until its time, and is not begun by itself long after it.
                        held_by="time" if operation.at else "",
                    )
                else:
                    transaction.execute("UPDATE operations SET revision = revision + 1 WHERE id = ?", (operation.id,))
                    event = audit.Event("operation.seconded", actor.id, operation.tenant, operation.id, detail)
                    audit.record(transaction, event, now)
                    missing = policy.approvals - given
                    self.operations.note(
                        transaction,
                        operation.id,
                        f":ballot_box_with_check: <@{actor.id}> approved{chosen} ({given} of {policy.approvals}). "
                        f"{missing} more {approvals(missing)} needed.",
                    )
        after = self.operations.get(operation.id)
        if not won:
            raise Refused(f"{operation.headed} {after.standing}.")
        self.operations.changed()
        return after

    def _starts(self, operation: Operation) -> str:
        """Return when an approved operation begins, in words."""
        if self.operations.clock() >= operation.at:
            return "Starting now."
        at = shown_moment(operation.at, ZoneInfo(self.settings.bot.timezone))
        return f"Starts {at}. To cancel until then: `/mautic cancel {operation.id}`"

    def _choose(self, transaction: sqlite3.Connection, operation: Operation, choice: str) -> None:
        """Store the choice in the operation. A second approver has to choose the same, or deny."""
        argument = operation.plan["choice"]["argument"]
        stands, first = transaction.execute(
            "SELECT json_extract(arguments, '$.' || ?), (SELECT actor FROM decisions WHERE operation = operations.id"
            " AND verdict = 'approve' ORDER BY at, rowid LIMIT 1) FROM operations WHERE id = ?",
            (argument, operation.id),
        ).fetchone()
        if first and stands != choice:
            so = f"`{stands}`" if stands else "no choice"
            raise Refused(f"<@{first}> approved {operation.named} with {so}. Approve with the same choice, or deny.")
        transaction.execute(
            "UPDATE operations SET arguments = json_set(arguments, '$.' || ?, ?) WHERE id = ?",
            (argument, choice, operation.id),
        )

    def _enter(
        self,
        transaction: sqlite3.Connection,
        operation: Operation,
        actor: Actor,
        verdict: Verdict,
        reason: str,
        via: str,
        now: float,
    ) -> None:
        transaction.execute(
            "INSERT INTO decisions VALUES (?,?,?,?,?,?) ON CONFLICT (operation, actor)"
            " DO UPDATE SET verdict = excluded.verdict, reason = excluded.reason, via = excluded.via, at = excluded.at",
            (operation.id, actor.id, verdict, reason, via, now),
        )

    def cancel(self, number: int, actor: Actor) -> Operation:
        """Cancel a request that has not started; its requester, and those who may decide on it, may do so."""
        operation = self.operations.get(number)
        may = self.settings.policy(operation.command).approve
        if actor.id != operation.requester and not actor.roles & set(may):
            raise Refused(f"Only <@{operation.requester}> or {names(may)} can cancel {operation.named}.")
        # An approved operation that a guard makes wait has changed nothing yet.
        held = operation.state == "queued" and operation.held_by and not operation.begun
        with self.operations.database.transaction() as transaction:
            moved = self.operations.move(
                transaction,
                operation,
                "cancelled",
                event="operation.cancelled",
                actor=actor.id,
                expect=("queued",) if held else ("awaiting_approval",),
                note=f":leftwards_arrow_with_hook: Cancelled by <@{actor.id}>. Nothing was changed.",
                outcome="Cancelled",
                ended_by=actor.id,
                finished=self.operations.clock(),
            )
        if not moved:
            now = self.operations.get(number)
            late = "" if now.state == "cancelled" else " and can no longer be cancelled"
            raise Refused(f"{operation.headed} {now.standing}{late}.")
        self.operations.changed()
        return self.operations.get(number)

    def _is_over(self, operation: Operation) -> bool:
        """Return whether the request has expired by uptime: setting the clock back does not extend it."""
        lives, asked = operation.expires - operation.created, operation.asked
        return asked is not None and self.operations.uptime.now() - asked >= lives

    def expire(self) -> int:
        """Expire every request whose time is over; return how many. The database decides, so downtime does not matter.

        Nobody can decide on a request that is over by the wall clock alone. It expires if that still says so an hour
        later.
        """
        now = self.operations.clock()
        waiting = self.operations.select("state = 'awaiting_approval'")
        by_the_wall = {str(one.id) for one in waiting if now >= one.expires}
        confirmed = self.operations.uptime.confirmed("expiry", by_the_wall, CONFIRM)
        ended = 0
        for operation in waiting:
            if not (self._is_over(operation) or str(operation.id) in confirmed):
                continue
            with self.operations.database.transaction() as transaction:
                ended += self.operations.move(
                    transaction,
                    operation,
                    "expired",
                    event="operation.expired",
                    actor=SYSTEM,
                    expect=("awaiting_approval",),
                    note=f":hourglass: <@{operation.requester}>, your request expired after "
                    f"{seconds(round(operation.expires - operation.created))} without a decision. Nothing was changed. "
                    f"Request again: {code('/mautic ' + operation.again_at(now))}",
                    outcome="Expired without a decision",
                    finished=now,
                )
        if ended:
            self.operations.changed()
        return ended


def _reason(text: str) -> str:
    """Return a reason on one line, without the `because` that may precede it."""
    return re.sub(r"^because\b[\s,:…]*", "", " ".join(text.split()), flags=re.I)[:REASON]
