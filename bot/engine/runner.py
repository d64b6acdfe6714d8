"""The runner: claims queued operations, runs their steps, records each, and continues after a crash."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from bot.engine import attention, steps
from bot.engine.context import Context
from bot.engine.errors import explain
from bot.engine.guards import Guards
from bot.lxd.protocol import LxdUnavailable
from bot.model.labels import Role
from bot.model.plan import Plan, Refused
from bot.model.text import line, sentence
from bot.store import batches, claims, progress, recovery
from bot.store.database import DatabaseUnavailable
from bot.store.operation import RESPONDERS, SYSTEM, Operation

log = logging.getLogger(__name__)
PAUSE = 2.0
"""Seconds until a failed write to the database is retried."""
LATER = 20.0
"""Seconds until an operation that was put back is tried again."""


class PutBack(Exception):
    """Raised for an operation that has to wait because its host is unreachable."""


class Runner:
    """A pool of workers for the table of operations. `fault(moment)` is called around each record, for crash tests.

    Longer than other classes, because success, failure, rollback and waiting are all ends of one run.
    """

    def __init__(self, context: Context, workers: int, fault: Callable[[str], None] = lambda moment: None) -> None:
        self.context = context
        self.operations = context.operations
        self.fault = fault
        # One worker is reserved for people, however busy maintenance and batches are.
        self._shared = max(1, workers - 1)
        self._wake = threading.Condition()
        self._dirty = True
        self._stopping = False
        self.guards = Guards(context)
        self.later = LATER
        self._silent: dict[int, tuple[float, float]] = {}
        """For each operation that was put back: when the next try is, and when tries end, by the monotonic clock."""
        self._threads = [
            threading.Thread(target=self._run, name=f"runner-{number}", daemon=True) for number in range(workers)
        ]

    def start(self) -> None:
        """Requeue the operations that a crash interrupted, and start the workers."""
        recovery.recover(self.operations)
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Have the workers look at the queue."""
        with self._wake:
            self._dirty = True
            self._wake.notify()

    def stop(self, timeout: float = 30.0) -> None:
        """Stop claiming; wait `timeout` seconds for running steps. Their operations continue at the next start."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        give_up = time.monotonic() + timeout
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, give_up - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._dirty and not self._stopping:
                    self._wake.wait(10)
                    self._dirty = True
                self._dirty = False
                if self._stopping:
                    return
            try:
                while not self._stopping and self.run_one():
                    pass
            except Exception:
                log.exception("the runner failed; it tries again")

    def run_one(self) -> bool:
        """Claim one operation and run it to its end; return False if none may run now."""
        operation = claims.claim(
            self.operations, self.guards.hold, self._may, self._shared, self.guards.may_still_begin
        )
        if operation is None:
            batches.settle(self.operations)
            return False
        # More may be queued: another worker looks while this one is busy.
        self.wake()
        self._carry_out(operation)
        if operation.parent:
            batches.settle(self.operations)
        return True

    def _may(self, operation: Operation) -> bool:
        """Return whether an operation is due and still approved; if that cannot be determined, it waits."""
        if time.monotonic() < self._silent.get(operation.id, (0.0, 0.0))[0]:
            return False
        try:
            return self.guards.may_begin(operation)
        except Refused as error:
            log.warning("operation %s waits: %s", operation.id, error)
            return False

    def _carry_out(self, operation: Operation) -> None:
        """Run or roll back an operation. While the database cannot be written, wait: nothing is done unrecorded."""
        while not self._stopping:
            try:
                operation = self.operations.get(operation.id)
                if operation.undo_by:
                    self._roll_back(operation)
                else:
                    self._advance(operation)
                return
            except PutBack as error:
                log.info("operation %s waits for its host: %s", operation.id, error)
                claims.put_back(self.operations, operation, str(error))
                return
            except DatabaseUnavailable as error:
                log.warning("operation %s waits for the database: %s", operation.id, error)
                with self._wake:
                    self._wake.wait(PAUSE)

    def _advance(self, operation: Operation) -> None:
        plan: Plan | None = None
        try:
            plan = self._plan(operation)
            if not self._is_approved(operation, plan):
                raise Refused(
                    "The plan no longer matches what was approved. Request again: "
                    f"`/mautic {operation.again_at(self.operations.clock())}`"
                )
            if plan.children:
                self.fault("before children")
                batches.begin(self.operations, operation, plan)
                self.fault("after children")
                return
            for position, step in enumerate(plan.steps):
                if operation.steps[position].finished is not None:
                    continue
                if self._stopping:
                    return
                self.fault(f"before {position}")
                progress.step_started(self.operations, operation, position, plan.stored())
                self.fault(f"started {position}")
                note = step.work() or ""
                self.fault(f"ran {position}")
                progress.step_finished(self.operations, operation, position, note)
                self.fault(f"recorded {position}")
        except (DatabaseUnavailable, PutBack):
            raise
        except Exception as error:
            self._fail(operation, plan, error)
        else:
            done = self.operations.get(operation.id)
            words = self.context.renderer.words(
                f"commands/{operation.command}.j2",
                operation=done,
                plan=operation.plan,
                arguments=operation.arguments,
                took=self.operations.clock() - (done.started or done.created),
            )
            self.fault("before end")
            progress.finish(self.operations, operation, "succeeded", outcome="done", note=words)
            self.fault("after end")

    def _is_approved(self, operation: Operation, plan: Plan) -> bool:
        """Return whether the plan is what was approved.

        After the commit point, plans with the same steps suffice, because none of these is undone.
        """
        return operation.is_of(plan) or bool(operation.begun and operation.committed and operation.has_steps_of(plan))

    def _plan(self, operation: Operation) -> Plan:
        """Return an operation's plan.

        A tenant may depend on an operation that has begun. So while a host is unreachable, raise PutBack, for
        `steps.PATIENCE` seconds, which frees the worker for other operations meanwhile.
        """
        try:
            with self.context.fleet.reading_once():
                self.guards.refuse_to_begin(operation)
                self._refuse_blindness(operation)
                plan = self.context.registry.plan(self.context, operation)
        except LxdUnavailable as error:
            now = time.monotonic()
            _, give_up = self._silent.get(operation.id, (0.0, now + steps.PATIENCE))
            if not operation.begun or now + self.later > give_up:
                self._silent.pop(operation.id, None)
                raise
            self._silent[operation.id] = now + self.later, give_up
            raise PutBack(str(error)) from error
        self._silent.pop(operation.id, None)
        return plan

    def _refuse_blindness(self, operation: Operation) -> None:
        """Raise LxdUnavailable when the tenant of a begun operation may be on a host that does not answer."""
        if operation.begun and not operation.committed:
            seen = self.context.fleet.inventory(Role.TENANT, Role.ARCHIVED)
            if not any(one.name == operation.tenant for one in seen.tenants):
                self.context.fleet.require_all_answered(seen)

    def _fail(self, operation: Operation, plan: Plan | None, error: Exception) -> None:
        """Roll back a failed operation where it can be undone, and end it."""
        why, identity = explain(error, f"running operation {operation.id}")
        operation = self.operations.get(operation.id)
        if not operation.begun:
            self._failed(operation, why, identity, "nothing was changed")
        elif not operation.plan["undoable"]:
            self._failed(operation, why, identity, "completed steps are kept")
        elif plan is None:
            self._stuck(operation, why, "the plan could not be made again.", identity, error)
        else:
            # Record first: after a crash during the rollback, the steps must not continue.
            progress.failing(self.operations, operation, why, identity)
            self._roll_back(self.operations.get(operation.id), plan)

    def _roll_back(self, operation: Operation, plan: Plan | None = None) -> None:
        """Roll back an operation, after a failed step or on the Undo button."""
        failed, failure = operation.undo_by == SYSTEM, operation.cause
        try:
            plan = plan or self._plan(operation)
            if plan.undo is None:
                raise Refused(f"Request #{operation.id} cannot be rolled back automatically.")
            later = plan.undo() or ""
        except (DatabaseUnavailable, PutBack):
            raise
        except Exception as error:
            why, identity = explain(error, f"undoing operation {operation.id}")
            if failed:
                self._stuck(operation, failure, why, operation.error_id or identity, error)
                return
            left = attention.assess(self.context, operation)
            progress.finish(
                self.operations,
                operation,
                "needs_attention",
                outcome=f"Rollback failed: {why}",
                note=f":rotating_light: <@{operation.undo_by}>, the rollback failed: {sentence(why)} "
                f"{attention.told(left, '*')}",
                error_id=identity,
                aftermath=left,
            )
        else:
            if failed:
                self._failed(operation, failure, operation.error_id, later or "rolled back")
                return
            progress.finish(
                self.operations,
                operation,
                "cancelled",
                event="operation.undone",
                actor=operation.undo_by,
                outcome="Rolled back",
                note=f":leftwards_arrow_with_hook: Rolled back by <@{operation.undo_by}>.",
            )

    def _failed(self, operation: Operation, why: str, identity: str, left: str) -> None:
        progress.finish(
            self.operations,
            operation,
            "failed",
            outcome=why,
            note=f":x: <@{operation.requester}>, *{line(operation.plan['summary'])}* failed{_where(operation)}; "
            f"{left}. {sentence(why)} Retry is on the card above.",
            error_id=identity,
            aftermath={"left": left},
        )

    def _stuck(self, operation: Operation, why: str, left: str, identity: str, error: Exception) -> None:
        """End an operation that could not be rolled back as needing attention, and leave its tenant as it is.

        If only a host was unreachable, `schedules/undo.py` rolls it back later.
        """
        silent = isinstance(error, LxdUnavailable) and operation.undoable
        aftermath = attention.assess(self.context, replace(operation, undo_by=SYSTEM if silent else ""))
        told = attention.told(aftermath, "*")
        ways = "" if told else f" {aftermath['advice']}"
        again = " The bot rolls back automatically when the host answers." if silent else ""
        words = (
            f":rotating_light: {RESPONDERS}{told and told + ' '}<@{operation.requester}>, "
            f"*{line(operation.plan['summary'])}* failed{_where(operation)} and could not be undone; see the card "
            f"above.{ways}{again}"
        )
        progress.finish(
            self.operations,
            operation,
            "needs_attention",
            outcome=f"{why} Rollback failed: {left}",
            # Posted once, however often the bot retries.
            note="" if operation.aftermath else words,
            error_id=identity,
            undo_by=SYSTEM if silent else "",
            aftermath=aftermath,
            cause=why,
        )


def _where(operation: Operation) -> str:
    """Return the step at which an operation failed, in words."""
    at = next((step.title for step in operation.steps if step.started and not step.finished), "")
    return f" at “{at}”" if at else ""
