"""Checks whether earlier approvers still may approve, and whether their approvals are enough."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from zoneinfo import ZoneInfo

from bot.model.text import shown_moment
from bot.settings import Settings
from bot.store import audit
from bot.store.operation import GRACE, SYSTEM, Operation
from bot.store.operations import Operations


class Approvers:
    """Checks again the approvals that were given.

    Args:
        roles: returns the roles that a person has now; raises Refused if Slack does not answer.
    """

    def __init__(self, operations: Operations, settings: Settings, roles: Callable[[str], frozenset[str]]) -> None:
        self.operations = operations
        self.settings = settings
        self.roles = roles

    def lost(self, operation: Operation) -> list[str]:
        """Return the people who approved an operation and may no longer do so."""
        may = set(self.settings.policy(operation.command).approve)
        gave = [one.actor for one in operation.decisions if one.verdict == "approve"]
        return [person for person in gave if not self.roles(person) & may]

    def missing(self, operation: Operation, lost: Sequence[str] | None = None) -> int:
        """Return how many more approvals the operation needs by today's policy, given those that still count.

        `lost`: the result of `lost`, if it is known already.
        """
        takes = self.settings.policy(operation.command, batch=operation.in_batch).approvals
        if operation.requester == SYSTEM or not takes:
            return 0
        gave = sum(one.verdict == "approve" for one in operation.decisions)
        return max(0, takes - gave + len(self.lost(operation) if lost is None else lost))

    def confirm(self, operation: Operation) -> bool:
        """Return whether an operation that is about to begin is still approved; if not, send it back for approval.

        Its thread is told then. An operation that has begun goes on, because it would be left halfway; so do all
        children of a batch. Raises Refused if Slack does not tell who may approve.
        """
        if operation.begun or operation.undo_by or operation.parent:
            return True
        lost = self.lost(operation)
        if not (missing := self.missing(operation, lost)):
            return True
        now, lasts = self.operations.clock(), self.settings.policy(operation.command).hours * 3600
        # What was planned for the night begins then or not at all, so an approval by day comes too late.
        lasts = min(lasts, GRACE) if operation.at else lasts
        by = f" by {shown_moment(now + lasts, ZoneInfo(self.settings.bot.timezone))}" if operation.at else ""
        with self.operations.database.transaction() as transaction:
            self.forget(transaction, operation, lost)
            self.operations.move(
                transaction,
                operation,
                "awaiting_approval",
                event="operation.unapproved",
                expect=("queued",),
                detail={"missing": missing},
                # The time to decide starts again, so that the people who are asked for the rest have enough.
                expires=now + lasts,
                asked=self.operations.uptime.now(),
                held_by="",
                note=f":ballot_box_with_check: <@{operation.requester}>, {missing} more {approvals(missing)} needed"
                f"{by} before it starts.",
            )
        self.operations.changed()
        return False

    def forget(self, transaction: sqlite3.Connection, operation: Operation, lost: Sequence[str]) -> None:
        """Delete the approvals of people who may no longer approve, and name them in the thread."""
        for person in lost:
            gone = transaction.execute(
                "DELETE FROM decisions WHERE operation = ? AND actor = ? AND verdict = 'approve'",
                (operation.id, person),
            )
            if gone.rowcount:
                event = audit.Event("operation.voice_lost", person, operation.tenant, operation.id)
                audit.record(transaction, event, self.operations.clock())
                told = f":warning: <@{person}> may no longer approve this request, so that approval does not count."
                self.operations.note(transaction, operation.id, told)
        said = "SELECT 1 FROM decisions WHERE operation = ? AND verdict = 'approve' LIMIT 1"
        if lost and operation.options and not transaction.execute(said, (operation.id,)).fetchone():
            # With no approval left, the choice that came with one no longer counts.
            choice = operation.plan["choice"]
            transaction.execute(
                "UPDATE operations SET arguments = json_set(arguments, '$.' || ?, ?) WHERE id = ?",
                (choice["argument"], choice.get("proposed", ""), operation.id),
            )


def approvals(number: int) -> str:
    """Return “approval” or “approvals”, as the number requires."""
    return "approval" if number == 1 else "approvals"
