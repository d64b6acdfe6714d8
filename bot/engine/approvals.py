"""Approvals: who may decide, compare-and-set, expiry. A request and its operation are one row."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Literal, NoReturn

from bot.engine.voices import Voices, approvals
from bot.model.actor import Actor
from bot.model.plan import NotNow, Refused
from bot.model.text import clip, line
from bot.model.words import heard
from bot.settings import Policy, Settings
from bot.store import audit, recovery
from bot.store.operation import SYSTEM, Operation
from bot.store.operations import Operations, TenantBusy

Verdict = Literal["approve", "deny"]
_REPLY = re.compile(
    r"(?P<approve>approved?)(?:\s+(?P<typed>\S{1,100}?))?(?:\s+(?P<choice>send|drop|off))?[.!]*\Z"
    r"|(?P<deny>deny|denied)\b[\s,:]*(?P<reason>.*)"
    r"|(?P<cancel>cancel)[.!]*\Z",
    re.I | re.S,
)
"""What is typed in a thread to decide, an exact grammar: `approve if it rains` is not an approval."""
CONFIRM = 3600.0
"""Seconds lived through after which a request has ended whose time is over by the wall clock alone."""
REASON = 500
"""Characters of a reason that are kept."""


def decision(text: str) -> re.Match[str] | None:
    """Return what a reply decides (groups: approve, typed, choice; deny, reason; cancel), or None."""
    return _REPLY.match(heard(text))


class Approvals:
    """Decides on requests.

    Args:
        check: builds the plan again for who approves; it raises Refused (NotNow: it waits) or returns the fingerprint.
        roles: the roles that somebody has now who approved before; it raises Refused where Slack does not tell.
    """

    def __init__(
        self,
        operations: Operations,
        settings: Settings,
        check: Callable[[Operation, Actor], str],
        roles: Callable[[str], frozenset[str]],
    ) -> None:
        self.operations = operations
        self.settings = settings
        self.check = check
        self.voices = Voices(operations, settings, roles)
        self._approving = threading.Lock()

    def refuse_to_ask(self, command: str, actor: Actor) -> None:
        """Raise Refused when the policy does not let this person ask for the command."""
        policy = self.settings.policy(command)
        if not policy.ask:
            raise Refused(f"`{command}` is switched off: the settings name no role that may ask for it.")
        if not actor.roles & set(policy.ask):
            raise Refused(f"`{command}` may be asked for by {names(policy.ask)}; ask one of them.")

    def refuse_to_decide(self, operation: Operation, actor: Actor) -> None:
        """Raise Refused when the policy does not let this person decide on a request, or it is their own."""
        may = self.settings.policy(operation.command).approve
        if not actor.roles & set(may):
            raise Refused(f"Only {names(may)} can decide on operation {operation.id}.")
        if actor.id == operation.requester:
            raise Refused(
                f"You asked for operation {operation.id} yourself, so somebody else has to decide; "
                f"`/mautic cancel {operation.id}` withdraws it."
            )

    def refuse_to_retry(self, operation: Operation, actor: Actor) -> None:
        """Raise Refused when this person might not ask for it today, or it has failed and its approval is too old."""
        self.refuse_to_ask(operation.command, actor)
        hours = self.settings.policy(operation.command).hours
        approved = max((decision.at for decision in operation.decisions), default=operation.created)
        if operation.state == "failed" and self.operations.clock() >= approved + hours * 3600:
            raise Refused(
                f"What was approved more than {hours:g} hours ago is not tried again; ask anew with "
                f"`/mautic {operation.again}`."
            )
        if operation.state == "failed" and (missing := self.voices.missing(operation)):
            raise Refused(
                f"By now `{operation.command}` takes {missing} more {approvals(missing)} than operation "
                f"{operation.id} has of people who may still give one; ask anew with `/mautic {operation.again}`."
            )

    def refuse_to_give_up(self, operation: Operation, actor: Actor) -> None:
        """Raise Refused when this person may not end it as it stands: who looks after halts, or decides on its kind."""
        may = {*self.settings.policy("give-up").ask, *self.settings.policy(operation.command).approve}
        if not actor.roles & may:
            raise Refused(f"Only {names(sorted(may))} can give operation {operation.id} up.")
        if operation.state != "needs_attention":
            raise Refused(f"Operation {operation.id} {_decided(operation)}; only what needs attention can be given up.")

    def give_up(self, operation: Operation, actor: Actor, reason: str, left: str) -> None:
        """End what needs attention as it stands, or raise Refused; `left`: what is there of its tenant, for people."""
        self.refuse_to_give_up(operation, actor)
        reason = _reason(reason)
        if not reason:
            raise Refused(
                "Giving up needs a reason, which the audit log keeps: "
                f"`/mautic give-up {operation.id} because …` with it in place of the dots."
            )
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
        """Approve or deny, or raise Refused with the reason. One winner: a later decision is told who was first.

        `choice`: of a plan that leaves something to the approver, what they decided; it becomes the operation's own.
        """
        operation = self.operations.get(number)
        policy = self.settings.policy(operation.command, batch=operation.in_batch)
        self._refuse_unless_pending(operation, actor, verdict)
        self.refuse_to_decide(operation, actor)
        if verdict == "deny":
            reason = _reason(reason)
            return self._write(operation, actor, "deny", reason, via, policy)
        if choice and choice not in operation.options:
            offered = " or ".join(f"`approve {option}`" for option in operation.options)
            raise Refused(f"Operation {number} has no “{choice[:20]}” to choose; reply {offered or '`approve`'}.")
        if policy.step_up == "typed-name" and typed_name.strip().lower() != operation.confirmation:
            what = "how many tenants it is on" if operation.children else "the tenant's name"
            raise Refused(
                f"To approve operation {number}, type {what} with it: `approve {operation.confirmation}` in its "
                f"thread, or `/mautic approve {number} {operation.confirmation}`."
            )
        # The bot's own snapshots go on while a request waits.
        self.operations.wait_for_errand(operation.tenant)
        # What takes memory is approved one after the other: the next is to see what this one was promised.
        with self._approving if operation.plan.get("demand") else nullcontext():
            return self._approve(operation, actor, reason, via, policy, choice)

    def _approve(
        self, operation: Operation, actor: Actor, reason: str, via: str, policy: Policy, choice: str
    ) -> Operation:
        try:
            fingerprint = self.check(operation, actor)
        except NotNow as error:
            raise NotNow.of(error, f"{error} Operation {operation.id} goes on waiting for its approval.") from error
        except Refused as error:
            self._drifted(operation, actor, str(error))
        if fingerprint != operation.fingerprint:
            self._drifted(operation, actor, "What it would do is no longer what was asked for.")
        lost = self.voices.lost(operation)
        try:
            return self._write(operation, actor, "approve", reason, via, policy, choice, lost)
        except sqlite3.IntegrityError as error:
            self.operations.refuse_if_busy(operation.tenant, but=operation.id)
            raise TenantBusy(f"The bot is at work on `{operation.tenant}`; try again in a moment.") from error

    def _drifted(self, operation: Operation, actor: Actor, why: str) -> NoReturn:
        """The world has changed since the request: cancel it, and tell those who asked and decided."""
        with self.operations.database.transaction() as transaction:
            moved = self.operations.move(
                transaction,
                operation,
                "cancelled",
                event="operation.drifted",
                actor=actor.id,
                expect=("awaiting_approval",),
                detail={"why": why},
                note=f":twisted_rightwards_arrows: <@{operation.requester}>, this was cancelled at its approval, as "
                f"things have changed since it was asked for: {line(why)} Ask again.",
                outcome=why,
                finished=self.operations.clock(),
            )
        if not moved:
            raise Refused(f"Operation {operation.id} {_decided(self.operations.get(operation.id))}.")
        self.operations.changed()
        raise Refused(f"Things have changed since operation {operation.id} was asked for, so it was cancelled: {why}")

    def _refuse_unless_pending(self, operation: Operation, actor: Actor, verdict: Verdict) -> None:
        if operation.state != "awaiting_approval":
            raise Refused(f"Operation {operation.id} {_decided(operation)}.")
        if self._is_over(operation) or self.operations.clock() >= operation.expires:
            self.expire()
            raise Refused(f"Operation {operation.id} has expired; ask again with `/mautic {operation.again}`.")
        for decision in operation.decisions:
            if decision.actor == actor.id and decision.verdict == verdict:
                raise Refused(f"You have approved operation {operation.id} already; it waits for somebody else too.")

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
            # Within the write lock nobody else decides: what is read here holds until the commit.
            row = transaction.execute("SELECT state FROM operations WHERE id = ?", (operation.id,)).fetchone()
            if won := row["state"] == "awaiting_approval":
                self.voices.forget(transaction, operation, lost)
                if choice:
                    self._choose(transaction, operation, choice)
                self._enter(transaction, operation, actor, verdict, reason, via, now)
                given = transaction.execute(
                    "SELECT count(*) FROM decisions WHERE operation = ? AND verdict = 'approve'",
                    (operation.id,),
                ).fetchone()[0]
                if verdict == "deny":
                    because = f" because: {clip(line(reason), 2000)}" if reason else ""
                    self.operations.move(
                        transaction,
                        operation,
                        "denied",
                        event="operation.denied",
                        actor=actor.id,
                        expect=("awaiting_approval",),
                        detail=detail,
                        note=f":no_entry: <@{actor.id}> denied it{because}. "
                        f"<@{operation.requester}>, nothing was done.",
                        outcome=f"Denied because: {reason}" if reason else "Denied",
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
                        note=f":white_check_mark: <@{actor.id}> approved it{chosen}.",
                        held_by="",
                    )
                else:
                    transaction.execute("UPDATE operations SET revision = revision + 1 WHERE id = ?", (operation.id,))
                    event = audit.Event("operation.seconded", actor.id, operation.tenant, operation.id, detail)
                    audit.record(transaction, event, now)
                    missing = policy.approvals - given
                    self.operations.note(
                        transaction,
                        operation.id,
                        f":ballot_box_with_check: <@{actor.id}> approved it{chosen}; {missing} more.",
                    )
        after = self.operations.get(operation.id)
        if not won:
            raise Refused(f"Operation {operation.id} {_decided(after)}.")
        self.operations.changed()
        return after

    def _choose(self, transaction: sqlite3.Connection, operation: Operation, choice: str) -> None:
        """Write the choice down as the operation's own; who approves as well agrees with who was first, or denies."""
        argument = operation.plan["choice"]["argument"]
        stands, first = transaction.execute(
            "SELECT json_extract(arguments, '$.' || ?), (SELECT actor FROM decisions WHERE operation = operations.id"
            " AND verdict = 'approve' ORDER BY at, rowid LIMIT 1) FROM operations WHERE id = ?",
            (argument, operation.id),
        ).fetchone()
        if first and stands != choice:
            so = f"`{stands}`" if stands else "no choice"
            raise Refused(f"<@{first}> approved operation {operation.id} with {so}; approve it so too, or deny it.")
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
        """Withdraw a request that waits: by who asked for it, or by who may decide on it."""
        operation = self.operations.get(number)
        may = self.settings.policy(operation.command).approve
        if actor.id != operation.requester and not actor.roles & set(may):
            raise Refused(f"Only <@{operation.requester}> or {names(may)} can cancel operation {number}.")
        # One that was approved and waits for its host has changed nothing yet.
        held = operation.state == "queued" and operation.held_by and not operation.begun
        with self.operations.database.transaction() as transaction:
            moved = self.operations.move(
                transaction,
                operation,
                "cancelled",
                event="operation.cancelled",
                actor=actor.id,
                expect=("queued",) if held else ("awaiting_approval",),
                note=f":leftwards_arrow_with_hook: <@{actor.id}> withdrew it; nothing was done.",
                outcome="Withdrawn",
                ended_by=actor.id,
                finished=self.operations.clock(),
            )
        if not moved:
            raise Refused(f"Operation {number} {_decided(self.operations.get(number))}.")
        self.operations.changed()
        return self.operations.get(number)

    def _is_over(self, operation: Operation) -> bool:
        """Whether its hours were lived through: that a clock was set back gives it none."""
        lives, asked = operation.expires - operation.created, operation.asked
        return asked is not None and self.operations.lived.now() - asked >= lives

    def expire(self) -> int:
        """End every request whose time is over; return how many. Decided from what is, so downtime does no harm.

        Nobody can decide on one that is over by the wall clock alone; it ends when that still says so an hour later.
        """
        now = self.operations.clock()
        waiting = self.operations.select("state = 'awaiting_approval'")
        by_the_wall = {str(one.id) for one in waiting if now >= one.expires}
        confirmed = self.operations.lived.confirmed("expiry", by_the_wall, CONFIRM)
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
                    note=f":hourglass: Nobody decided in time. <@{operation.requester}>, nothing was done; ask again.",
                    outcome="Nobody decided in time",
                    finished=now,
                )
        if ended:
            self.operations.changed()
        return ended


def _reason(text: str) -> str:
    """Return what stands after `because`, which may be left out, on one line."""
    return re.sub(r"^because\b[\s,:…]*", "", " ".join(text.split()), flags=re.I)[:REASON]


def _decided(operation: Operation) -> str:
    """Say how a request stands, naming who was first."""
    by = next((d.actor for d in reversed(operation.decisions)), "")
    if operation.state == "denied":
        return f"was denied by <@{by}>"
    if operation.state == "awaiting_approval":
        return "still waits for approval"
    if operation.state in ("expired", "cancelled"):
        return f"is {operation.state}"
    stands = {
        "queued": "is about to start",
        "running": "is under way",
        "succeeded": "is done",
        "failed": "has failed",
        "needs_attention": "needs attention",
        "given_up": "was given up",
        "waiting": "waits for its turn in a batch",
    }[operation.state]
    return f"was approved by <@{by}> and {stands}" if by else stands


def names(roles: list[str]) -> str:
    """Name roles as those who have one: "an operator or an approver"."""
    return " or ".join(f"a{'n' if role[0] in 'aeiou' else ''} {role}" for role in roles)
