"""`/mautic console`: runs an allowed Mautic console command in a tenant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import BoundedSemaphore

from bot.engine.context import Context
from bot.engine.guards import Change, Guards, Moment
from bot.engine.registry import FreeWords, TenantArgument, decides, query
from bot.guest.console import READS, NotAllowed, allowed
from bot.model.plan import Refused, UnknownWords
from bot.slack.messages import Message
from bot.store import audit
from bot.store.operations import TenantBusy

_RUNNING = BoundedSemaphore(2)
"""Limits how many commands run at once: one may take minutes, and people's requests must not wait behind them all."""


@decides
@query
def console(context: Context, tenant: TenantArgument, *command: FreeWords) -> Message:
    """Run an allowed Mautic console command, such as `cache:clear`.

    Without a command, lists what is allowed. For operators and approvers; every run is in the audit log. A command that
    changes something locks the tenant while it runs, and is refused during an operation or a freeze.
    """
    context.approvals.refuse_to_ask("console", context.actor)
    found = context.fleet.tenant(tenant)
    try:
        words = allowed(command)
    except NotAllowed as error:
        raise UnknownWords(str(error)) from error
    if not _RUNNING.acquire(blocking=False):
        raise Refused("Two console commands are already running. Try again when one has finished.")
    try:
        with _held(context, tenant, words):
            _record_once(context, tenant, words)
            code, output = context.fleet.of(found).mautic.console(found.instance, words)
    finally:
        _RUNNING.release()
    return context.renderer.message(
        "commands/console.j2", tenant=tenant, words=" ".join(words), code=code, output=output
    )


@contextmanager
def _held(context: Context, tenant: str, words: Sequence[str]) -> Iterator[None]:
    """Lock the tenant for a command that changes something, or raise Refused."""
    if words[0] in READS:
        yield
        return
    change = Change("console", tenant, context.actor, planned=True, passes=True)
    context.operations.wait_for_maintenance(tenant)
    try:
        # Locked before the guard looks for operations: what is queued from now on waits.
        with context.operations.at_work.take(tenant, f"`{words[0]}` is running") as other:
            if other:
                raise TenantBusy(f"{other} in `{tenant}`. Try again when that has finished.")
            Guards(context).refuse(Moment.REQUEST, change)
            yield
    finally:
        context.operations.changed()


def _record_once(context: Context, tenant: str, words: Sequence[str]) -> None:
    """Record the run, or raise Refused if this delivery has run the command before: it may have sent mail."""
    before = "SELECT 1 FROM audit WHERE tenant = ? AND event = 'console.run' AND json_extract(detail, '$.delivery') = ?"
    event = audit.Event(
        "console.run", context.actor.id, tenant, 0, {"words": " ".join(words), "delivery": context.delivery}
    )
    with context.database.transaction() as transaction:
        if context.delivery and transaction.execute(before, (tenant, context.delivery)).fetchone():
            raise Refused(
                f"The bot restarted while `{' '.join(words)}` was running in `{tenant}`. The command may have "
                "finished, so it is not repeated automatically. Check the result, and run it again if needed."
            )
        audit.record(transaction, event, context.now())
