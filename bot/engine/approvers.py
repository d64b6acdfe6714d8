"""Checks whether earlier approvers still may approve, and whether their approvals are enough."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from bot.settings import Settings
from bot.store import audit
from bot.store.operation import SYSTEM, Operation
from bot.store.operations import Operations


class Approvers:
    """The approvals that were given, looked at again.

    Args:
        roles: the roles that a person has now; it raises Refused where Slack does not tell.
    """

    def __init__(self, operations: Operations, settings: Settings, roles: Callable[[str], frozenset[str]]) -> None:
        self.operations = operations
        self.settings = settings
        self.roles = roles

    def lost(self, operation: Operation) -> list[str]:
        """Return who approved it and may not any more."""
        may = set(self.settings.policy(operation.command).approve)
        gave = [one.actor for one in operation.decisions if one.verdict == "approve"]
        return [person for person in gave if not self.roles(person) & may]

    def missing(self, operation: Operation, lost: Sequence[str] | None = None) -> int:
        """Return how many approvals it takes by now beside those that were given and still count.

        `lost`: as `lost` tells, where that was asked already.
        """
        takes = self.settings.policy(operation.command, batch=operation.in_batch).approvals
        if operation.requester == SYSTEM or not takes:
            return 0
        gave = sum(one.verdict == "approve" for one in operation.decisions)
        return max(0, takes - gave + len(self.lost(operation) if lost is None else lost))

    def confirm(self, operation: Operation) -> bool:
        """Whether what is about to begin is still approved: else it waits for approval again, and its thread is told.

        What has begun goes on, as it would be left half way; so does a batch, with all its
        children. Raises Refused where Slack does not tell who may approve.
        """
        if operation.begun or operation.undo_by or operation.parent:
            return True
        lost = self.lost(operation)
        if not (missing := self.missing(operation, lost)):
            return True
        with self.operations.database.transaction() as transaction:
            self.forget(transaction, operation, lost)
            self.operations.move(
                transaction,
                operation,
                "awaiting_approval",
                event="operation.unapproved",
                expect=("queued",),
                detail={"missing": missing},
                # Its time is now: whoever is asked for the rest needs some.
                expires=self.operations.clock() + self.settings.policy(operation.command).hours * 3600,
                asked=self.operations.uptime.now(),
                held_by="",
                note=f":ballot_box_with_check: <@{operation.requester}>, {missing} more {approvals(missing)} needed "
                "before it starts.",
            )
        self.operations.changed()
        return False

    def forget(self, transaction: sqlite3.Connection, operation: Operation, lost: Sequence[str]) -> None:
        """Take back the say of those who have none any more; the thread is told whose."""
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
            # What they chose counts no more than their approval.
            choice = operation.plan["choice"]
            transaction.execute(
                "UPDATE operations SET arguments = json_set(arguments, '$.' || ?, ?) WHERE id = ?",
                (choice["argument"], choice.get("proposed", ""), operation.id),
            )


def approvals(number: int) -> str:
    """Return the noun for so many."""
    return "approval" if number == 1 else "approvals"
