"""Freezes: while one tenant or all are frozen, only changes that keep tenants safe are allowed.

Operations that have begun are finished or rolled back. Who may freeze is policy; `bot/engine/guards.py` decides what is
refused.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from bot.model.plan import Refused, UnknownWords
from bot.model.tenants import InvalidName, tenant_name
from bot.model.text import names
from bot.store import audit
from bot.store.operation import SYSTEM
from bot.store.operations import Operations

EVERYTHING = ""
"""The `tenant` of a freeze of all tenants."""
CONFIRM = 3600.0
"""Elapsed seconds after which a freeze ends that is over by only one of the two clocks."""


def subject(word: str) -> str:
    """Return the tenant named by a word, EVERYTHING for `all`; raise UnknownWords if it is not a name."""
    try:
        return EVERYTHING if word.lower() == "all" else tenant_name(word)
    except InvalidName as error:
        raise UnknownWords(str(error)) from error


@dataclass(frozen=True)
class Freeze:
    """One freeze. `tenant`: EVERYTHING for all; `until`: epoch seconds, None: until somebody ends it.

    `lived`: when it began, in elapsed time (`Uptime.now`).
    """

    id: int
    tenant: str
    actor: str
    reason: str
    at: float
    lived: float
    until: float | None

    @property
    def what(self) -> str:
        """What is frozen, with the verb, to begin a sentence with."""
        return f"`{self.tenant}` is" if self.tenant else "All tenants are"

    @property
    def by(self) -> str:
        """Who froze: a person's Slack id, or "the bot"."""
        return "the bot" if self.actor == SYSTEM else self.actor

    @property
    def way_out(self) -> str:
        """The command that ends the freeze."""
        return f"/mautic unfreeze {self.tenant or 'all'}"

    def to_end(self, roles: Sequence[str]) -> str:
        """Say who can end the freeze, and how; `roles`: those that may end the freezes of others."""
        may = ["" if self.actor == SYSTEM else f"<@{self.actor}>", names(roles) if roles else ""]
        who = " or ".join(filter(None, may))
        if not who:
            return f"First add a role to `ask` of `[policies.unfreeze]`; then `{self.way_out}` ends the freeze"
        return f"{who[0].upper()}{who[1:]} can end the freeze: `{self.way_out}`"


class Freezes:
    """The table of freezes. Reading writes nothing; `expire` ends the freezes that are over."""

    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self.database = operations.database

    def all(self) -> list[Freeze]:
        """Return the current freezes, the freeze of all tenants first."""
        found = self._open()
        if not any(one.until for one in found):
            return found
        now, lived = self.operations.clock(), self.operations.uptime.now()
        return [one for one in found if not all(self._over(one, now, lived))]

    def on(self, tenant: str) -> Freeze | None:
        """Return the freeze that applies to a tenant, or None; a freeze of all tenants comes first."""
        return next((one for one in self.all() if one.tenant in (EVERYTHING, tenant)), None)

    def among(self, tenants: Sequence[str]) -> tuple[str, ...]:
        """Return those of the given tenants that are frozen, in their order."""
        held = {one.tenant for one in self.all()} if tenants else set()
        return tuple(one for one in tenants if EVERYTHING in held or one in held)

    def begin(
        self,
        tenant: str,
        actor: str,
        reason: str,
        until: float | None,
        delivery: str = "",
        *,
        may_end: Sequence[str] = (),
    ) -> Freeze:
        """Freeze a tenant, or EVERYTHING; raise Refused if it is already frozen for at least as long.

        A longer freeze replaces a shorter one, but never the other way round: the right to freeze is no right to
        shorten the freezes of others. A person's replaces the bot's that is as long.

        Args:
            delivery: the key of the Slack delivery that asked for it; the same delivery again does nothing.
            may_end: the roles that may end the freezes of others, for the text of the refusal.
        """
        now, lived = self.operations.clock(), self.operations.uptime.now()
        with self.database.transaction() as transaction:
            done = self._made_by(transaction, "delivery", delivery)
            if done:
                return done
            known = self._one(transaction, "ended IS NULL AND tenant = ?", tenant)
            if known and not all(self._over(known, now, lived)) and not _replaces(until, actor, known):
                raise Refused(f"{known.what} already frozen for as long. {known.to_end(may_end)}")
            if known:
                self._end(transaction, known, actor, "")
            cursor = transaction.execute(
                "INSERT INTO freezes (tenant, actor, reason, at, lived, until, delivery) VALUES (?,?,?,?,?,?,?)",
                (tenant, actor, reason, now, lived, until, delivery),
            )
            detail = {"reason": reason, "until": until}
            audit.record(transaction, audit.Event("freeze.begun", actor, tenant, detail=detail), now)
            self._show_anew(transaction, tenant)
        self.operations.changed()
        return Freeze(int(cursor.lastrowid or 0), tenant, actor, reason, now, lived, until)

    def end(self, tenant: str, actor: str, delivery: str = "", *, own: bool = False) -> Freeze:
        """End the freeze of a tenant, or of EVERYTHING; raise Refused if there is none.

        `own`: the actor may not end the freezes of others, so a freeze of somebody else that theirs replaced, and that
        is not over, applies again. So does one that the bot's replaced.
        """
        with self.database.transaction() as transaction:
            done = self._made_by(transaction, "ended_in", delivery)
            if done:
                return done
            known = self._one(transaction, "ended IS NULL AND tenant = ?", tenant)
            if known is None:
                raise Refused(self._not_frozen(tenant))
            before = self._replaced(transaction, known) if own or known.actor == SYSTEM else None
            self._end(transaction, known, actor, delivery)
            if before:
                self._put_back(transaction, before)
        self.operations.changed()
        return known

    def _replaced(self, transaction: sqlite3.Connection, by: Freeze) -> Freeze | None:
        """Return the longest freeze of somebody else that a freeze has replaced and that is not over yet, or None."""
        return self._one(
            transaction,
            # A freeze that was ended by a command is over for good, as are all before it.
            "tenant = ? AND actor <> ? AND ended_by = ? AND ended_in = '' AND (until IS NULL OR until > ?)"
            " AND id > (SELECT coalesce(max(id), 0) FROM freezes WHERE tenant = ? AND ended_in <> '')"
            " ORDER BY until IS NULL DESC, until DESC LIMIT 1",
            by.tenant,
            by.actor,
            by.actor,
            self.operations.clock(),
            by.tenant,
        )

    def _put_back(self, transaction: sqlite3.Connection, one: Freeze) -> None:
        now, lived = self.operations.clock(), self.operations.uptime.now()
        transaction.execute(
            "INSERT INTO freezes (tenant, actor, reason, at, lived, until, delivery) VALUES (?,?,?,?,?,?,'')",
            (one.tenant, one.actor, one.reason, now, lived, one.until),
        )
        detail = {"reason": one.reason, "until": one.until, "again": True}
        audit.record(transaction, audit.Event("freeze.begun", one.actor, one.tenant, detail=detail), now)

    def expire(self) -> int:
        """End the freezes that are over; return how many.

        A freeze is over when both the wall clock and the elapsed time say so; if only one does, an hour later. So
        setting the clock neither ends a freeze nor makes it last for ever.
        """
        timed = [one for one in self._open() if one.until is not None]
        now, lived = self.operations.clock(), self.operations.uptime.now()
        doubtful = {str(one.id) for one in timed if any(self._over(one, now, lived))}
        confirmed = self.operations.uptime.confirmed("freeze", doubtful, CONFIRM)
        over = [one for one in timed if all(self._over(one, now, lived)) or str(one.id) in confirmed]
        for one in over:
            with self.database.transaction() as transaction:
                self._end(transaction, one, SYSTEM, "")
        if over:
            self.operations.changed()
        return len(over)

    def _over(self, one: Freeze, now: float, lived: float) -> tuple[bool, bool]:
        """Whether a freeze is over by the wall clock, and whether by elapsed time."""
        if one.until is None:
            return False, False
        return now >= one.until, lived - one.lived >= one.until - one.at

    def _not_frozen(self, tenant: str) -> str:
        said = f"`{tenant}` is not frozen" if tenant else "Not all tenants are frozen"
        others = self.all()
        if not others:
            return f"{said}, and neither is anything else."
        return f"{said}. To end what is frozen: {_and([f'`{one.way_out}`' for one in others[:5]])}."

    def _open(self) -> list[Freeze]:
        rows = self.database.read(f"SELECT {_COLUMNS} FROM freezes WHERE ended IS NULL ORDER BY tenant")  # noqa: S608
        return [Freeze(*row) for row in rows]

    def _one(self, transaction: sqlite3.Connection, where: str, *values: object) -> Freeze | None:
        row = transaction.execute(f"SELECT {_COLUMNS} FROM freezes WHERE {where}", values).fetchone()  # noqa: S608
        return Freeze(*row) if row else None

    def _made_by(self, transaction: sqlite3.Connection, column: str, delivery: str) -> Freeze | None:
        """Return the freeze that the same delivery already made or ended before a crash, or None."""
        return self._one(transaction, f"{column} = ?", delivery) if delivery else None

    def _end(self, transaction: sqlite3.Connection, one: Freeze, actor: str, delivery: str) -> None:
        now = self.operations.clock()
        done = transaction.execute(
            "UPDATE freezes SET ended = ?, ended_by = ?, ended_in = ? WHERE id = ? AND ended IS NULL",
            (now, actor, delivery, one.id),
        )
        if done.rowcount:
            audit.record(transaction, audit.Event("freeze.ended", actor, one.tenant), now)
            self._show_anew(transaction, one.tenant)

    def _show_anew(self, transaction: sqlite3.Connection, tenant: str) -> None:
        """Refresh the cards of waiting operations and started batches."""
        transaction.execute(
            "UPDATE operations SET revision = revision + 1 WHERE state IN ('awaiting_approval', 'queued')"
            " AND ? IN ('', tenant) OR state = 'running' AND id IN (SELECT operation FROM batches)",
            (tenant,),
        )


_COLUMNS = "id, tenant, actor, reason, at, lived, until"


def _lasts(until: float | None) -> float:
    """Return the end of a freeze for comparison: infinite if it has none."""
    return math.inf if until is None else until


def _replaces(until: float | None, actor: str, known: Freeze) -> bool:
    """Whether a new freeze takes the place of one that is not over."""
    if known.actor == SYSTEM != actor:
        # The bot freezes only until people have looked.
        return _lasts(until) >= _lasts(known.until)
    return _lasts(until) > _lasts(known.until)


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
