"""Incidents: one open per kind of finding and tenant or server, with one thread. Every change has its audit row.

The head of the thread is rendered from state, like an operation's card, so that the next update makes up for a lost
one. Before anything is posted, the attempt is recorded: after a crash the bot looks for the message and does not post
it twice.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from bot.model import findings
from bot.model.diagnosis import Diagnosis, Finding
from bot.model.findings import Judged, Kind
from bot.model.plan import Refused
from bot.model.text import escape, seconds, sentence
from bot.slack.messages import Message, Renderer, actions, button
from bot.slack.poster import NoEntry, NotPosted, Post, search_from
from bot.store import audit
from bot.store.database import Database
from bot.store.operation import SYSTEM

log = logging.getLogger(__name__)
FLAP = 15 * 60
"""Seconds after its end within which an incident is reopened if the same problem returns."""
FIGURES = 30 * 60
"""Seconds that a head may show outdated figures: Slack takes some fifty messages a minute."""
LONG = 5 * 60
"""Seconds that Slack may refuse the messages of an incident before somebody has to look."""
SILENCE = 4 * 3600
"""Seconds for which an incident is silenced."""


@dataclass(frozen=True)
class Incident:
    """One row. `tenant` or `server` says whose problem it is, the other is empty; times in epoch seconds.

    `outdated`: since when the head shows figures that have changed.
    """

    id: int
    tenant: str
    server: str
    kind: str
    text: str
    opened: float
    closed: float | None
    silenced_until: float
    silenced_by: str
    channel: str
    message_ts: str
    tried: int
    revision: int
    announced: int
    outdated: float | None = None

    @property
    def subject(self) -> str:
        """The tenant, server or part that the incident is about."""
        return self.tenant or self.server

    @property
    def mark(self) -> str:
        """The identity on its buttons: after a loss of the database another incident may get its number."""
        return f"{self.id}.{self.opened:.0f}"

    def is_silenced(self, now: float) -> bool:
        """Whether it is silenced at epoch seconds `now`.

        A silence that ends later than any silence can was begun by a clock that was ahead, and counts as over.
        """
        return now < self.silenced_until <= now + SILENCE

    @property
    def row(self) -> Kind:
        """Its kind of finding, a row of `bot.model.findings`."""
        return findings.kind(self.kind)

    @property
    def title(self) -> str:
        """The finding as a headline."""
        return self.row.title


def worst_first(incidents: Iterable[Incident]) -> list[Incident]:
    """Return incidents by severity, the worst first, otherwise in their order."""
    return sorted(incidents, key=lambda one: one.row.severity)


@dataclass(frozen=True)
class Seen:
    """The result of one sweep, by tenant and by server; those that are missing were not checked.

    `gone`: (tenant, server) pairs, one of the two empty, of those that no longer exist.
    """

    tenants: Mapping[str, Diagnosis]
    servers: Mapping[str, Diagnosis]
    gone: Collection[tuple[str, str]] = ()


class Incidents:
    """The table of incidents, and their threads in a channel (empty: incidents are recorded, but not posted)."""

    def __init__(
        self,
        database: Database,
        post: Post,
        renderer: Renderer,
        channel: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.database = database
        self.post = post
        self.renderer = renderer
        self.channel = channel
        self.clock = clock
        self._announcing = threading.Lock()
        self._untold: dict[int, float] = {}
        """Since when Slack has refused the messages of an incident, by its number."""

    # -- reading ------------------------------------------------------------------------------------------------

    def marked(self, mark: str) -> Incident:
        """Return the incident of a button; raise Refused if there is none, or its number belongs to another one."""
        for found in self._select("id = ?", int(mark.partition(".")[0])):
            if found.mark == mark:
                return found
        raise Refused("This incident no longer exists. The next health check posts a new one if needed.")

    def open(self) -> list[Incident]:
        """Return the open incidents, oldest first."""
        return self._select("closed IS NULL")

    def since(self, at: float) -> list[Incident]:
        """Return the incidents that are open, or were at some time since a moment (epoch seconds), oldest first."""
        return self._select("closed IS NULL OR closed BETWEEN ? AND ?", at, self.clock())

    def _select(self, where: str, *values: object, order: str = "id") -> list[Incident]:
        rows = self.database.read(f"SELECT * FROM incidents WHERE {where} ORDER BY {order}", *values)  # noqa: S608
        return [Incident(**row) for row in rows]

    # -- changing -----------------------------------------------------------------------------------------------

    def judge(self, transaction: sqlite3.Connection, seen: Seen) -> None:
        """Open incidents for new findings, close those no longer found; what was not checked stays."""
        now = self.clock()
        known: dict[tuple[str, str], dict[str, Incident]] = {}
        for row in transaction.execute("SELECT * FROM incidents WHERE closed IS NULL"):
            known.setdefault((row["tenant"], row["server"]), {})[row["kind"]] = Incident(**row)
        looked = [("", server, diagnosis) for server, diagnosis in seen.servers.items()]
        looked += [(tenant, "", diagnosis) for tenant, diagnosis in seen.tenants.items()]
        for tenant, server, diagnosis in looked:
            here = known.get((tenant, server), {})
            for finding in diagnosis.findings:
                if finding.kind not in here:
                    self._open(transaction, tenant, server, finding, now)
                elif finding.text != here[finding.kind].text:
                    transaction.execute(
                        "UPDATE incidents SET text = ?, outdated = coalesce(outdated, ?) WHERE id = ?",
                        (finding.text, now, here[finding.kind].id),
                    )
            for kind in here.keys() - {finding.kind for finding in diagnosis.findings} - diagnosis.unseen:
                lasted = now - here[kind].opened
                # It has no known duration if a clock that was ahead dated its beginning.
                words = f"Resolved after {seconds(lasted)}." if lasted >= 0 else "Resolved."
                if diagnosis.rests and findings.kind(kind).judged != Judged.ALWAYS:
                    words = f"The tenant was {diagnosis.rests}, so this is no longer monitored."
                elif kind in diagnosis.given_up:
                    words = "The task has not run for a day, so it is no longer monitored."
                self._close(transaction, here[kind], words, now)
        for subject in seen.gone:
            for incident in known.get(subject, {}).values():
                what = "tenant" if incident.tenant else "server"
                self._close(transaction, incident, f"Resolved: the {what} no longer exists.", now)
        # When a silence is over, the button comes back.
        transaction.execute(
            "UPDATE incidents SET silenced_until = 0, silenced_by = '', revision = revision + 1"
            " WHERE closed IS NULL AND silenced_until > 0 AND (silenced_until <= ? OR silenced_until > ?)",
            (now, now + SILENCE),
        )

    def _open(self, transaction: sqlite3.Connection, tenant: str, server: str, finding: Finding, now: float) -> None:
        """Open an incident, or reopen one that was resolved within `FLAP`."""
        detail = {"kind": finding.kind, "text": finding.text} | ({"server": server} if server else {})
        row = transaction.execute(
            "SELECT * FROM incidents WHERE tenant = ? AND server = ? AND kind = ? AND closed BETWEEN ? AND ?"
            " ORDER BY id DESC LIMIT 1",
            (tenant, server, finding.kind, now - FLAP, now),
        ).fetchone()
        if row:
            last = Incident(**row)
            transaction.execute(
                "UPDATE incidents SET closed = NULL, text = ?, revision = revision + 1 WHERE id = ?",
                (finding.text, last.id),
            )
            _record(transaction, "incident.reopened", SYSTEM, tenant, last.id, detail, now)
            if not last.is_silenced(now):
                _note(transaction, last.id, f":red_circle: Reopened: {sentence(finding.text)}")
            return
        cursor = transaction.execute(
            "INSERT INTO incidents (tenant, server, kind, text, opened, channel) VALUES (?,?,?,?,?,?)",
            (tenant, server, finding.kind, finding.text, now, self.channel),
        )
        _record(transaction, "incident.opened", SYSTEM, tenant, int(cursor.lastrowid or 0), detail, now)

    def _close(self, transaction: sqlite3.Connection, incident: Incident, words: str, now: float) -> None:
        transaction.execute("UPDATE incidents SET closed = ?, revision = revision + 1 WHERE id = ?", (now, incident.id))
        detail = {"kind": incident.kind, "outcome": words}
        _record(transaction, "incident.closed", SYSTEM, incident.tenant, incident.id, detail, now)
        if not incident.is_silenced(now):
            _note(transaction, incident.id, f":large_green_circle: {words}")

    def silence(self, mark: str, actor: str) -> None:
        """Silence an incident for `SILENCE` seconds; raise Refused if it is resolved or silenced already."""
        incident, now = self.marked(mark), self.clock()
        with self.database.transaction() as transaction:
            done = transaction.execute(
                "UPDATE incidents SET silenced_until = ?, silenced_by = ?, revision = revision + 1"
                " WHERE id = ? AND closed IS NULL AND (silenced_until <= ? OR silenced_until > ?)",
                (now + SILENCE, actor, incident.id, now, now + SILENCE),
            )
            if done.rowcount:
                detail = {"kind": incident.kind, "until": now + SILENCE}
                _record(transaction, "incident.silenced", actor, incident.tenant, incident.id, detail, now)
        if not done.rowcount:
            incident = self.marked(mark)
            how = "resolved" if incident.closed else f"silenced by <@{incident.silenced_by}>"
            raise Refused(f"Incident {incident.id} is already {how}.")

    # -- posting ------------------------------------------------------------------------------------------------

    def announce(self) -> None:
        """Bring every thread up to date; what Slack refuses is retried at the next call.

        Raises NotPosted, once all were tried, if Slack has refused one of them for `LONG` seconds.
        """
        if not self.channel or not self._announcing.acquire(blocking=False):
            return
        tried: list[int] = []
        refused: list[str] = []
        try:
            # Read again after each: a new incident does not wait behind hundreds of others.
            while todo := self._most_urgent(tried):
                incident = todo[0]
                tried.append(incident.id)
                try:
                    self._announce(incident)
                    self._untold.pop(incident.id, None)
                except NotPosted as error:
                    if incident.id not in self._untold:
                        log.warning("cannot tell of incident %s: %s", incident.id, error)
                    if not 0 <= self.clock() - self._untold.setdefault(incident.id, self.clock()) < LONG:
                        refused.append(str(error))
        finally:
            self._announcing.release()
        if refused:
            count = f"{len(refused)} incident{'s' if len(refused) > 1 else ''}"
            raise NotPosted(f"{count} could not be posted for minutes: {refused[-1]}")

    def _most_urgent(self, tried: list[int]) -> list[Incident]:
        """Return the next incident to post: new ones first, then those with a note for their thread, then the rest."""
        noted = "id IN (SELECT incident FROM incident_notes WHERE posted IS NULL)"
        due = f"announced < revision OR {noted} OR ((outdated <= ? OR outdated > ?) AND silenced_until <= ?)"
        return self._select(
            f"({due} OR (closed IS NULL AND channel <> ?)) AND id NOT IN (SELECT value FROM json_each(?))",  # noqa: S608
            self.clock() - FIGURES,
            self.clock(),
            self.clock(),
            self.channel,
            json.dumps(tried),
            order=f"message_ts <> '', NOT {noted}, id LIMIT 1",
        )

    def _announce(self, incident: Incident) -> None:
        if incident.channel != self.channel:
            # Not posted yet, or in a channel that the bot no longer uses: continue in a thread in this one.
            incident = replace(incident, channel=self.channel, message_ts="")
        ts = incident.message_ts
        if not ts or incident.announced < incident.revision or incident.outdated:
            if incident.closed and not incident.tried:
                # Resolved before it could be posted, because Slack did not answer: the digest reports it.
                self._done("incident_notes SET posted = ? WHERE incident = ?", self.clock(), incident.id)
                self._done("incidents SET announced = ? WHERE id = ?", incident.revision, incident.id)
                return
            head = self.head(incident)
            changed = incident.announced < incident.revision
            # Where it cannot be updated it is posted anew, except for new figures alone: they come every half hour.
            if not ts or (not self.post.update(incident.channel, ts, head) and changed):
                ts = self._once("incidents", incident.id, bool(incident.tried), incident, head, "", after=ts)
            told = (incident.channel, ts, incident.revision, incident.id)
            self._done("incidents SET channel = ?, message_ts = ?, announced = ?, outdated = NULL WHERE id = ?", *told)
        for note in self.database.read(
            "SELECT id, text, tried FROM incident_notes WHERE incident = ? AND posted IS NULL ORDER BY id", incident.id
        ):
            which = "incident_notes", note["id"], bool(note["tried"]), incident
            try:
                self._once(*which, self.renderer.say(note["text"]), ts)
            except NoEntry:
                # The channel allows no threads; one that allows nothing refuses this as well.
                about = f"*{escape(incident.subject)}* — {incident.title}: {note['text']}"
                self._once(*which, self.renderer.say(about), "")
            self._done("incident_notes SET posted = ? WHERE id = ?", self.clock(), note["id"])

    def _once(
        self,
        table: str,
        number: int,
        tried: bool,
        incident: Incident,
        message: Message,
        thread_ts: str,
        after: str = "",
    ) -> str:
        """Post a message, unless (if `tried`) it was posted before a crash or a lost answer; return its ts.

        `after`: the ts of the message that it replaces.
        """
        key = f"{table} {number}"
        since = search_from(incident.opened, self.clock()) - 3600
        found = ""
        if tried:
            found = self.post.find(incident.channel, key, since=since, thread_ts=thread_ts, after=after)
        if not found:
            self._done(f"{table} SET tried = 1 WHERE id = ?", number)
            found = self.post.post(incident.channel, message, key=key, thread_ts=thread_ts)
        return found

    def _done(self, update: str, *values: object) -> None:
        with self.database.transaction() as transaction:
            transaction.execute(f"UPDATE {update}", values)

    def head(self, incident: Incident) -> Message:
        """Render the current head of an incident's thread, with the buttons that still apply."""
        buttons, silenced = [], incident.is_silenced(self.clock())
        if not incident.closed:
            for command, remedy in incident.row.buttons.items():
                buttons.append(button(f"incident_{command}", remedy.button, incident.mark, remedy.style))
            if not silenced:
                buttons.append(button("incident_silence", "Silence 4 h", incident.mark))
        extra = [actions(f"incident-{incident.id}", *buttons)] if buttons else []
        return self.renderer.message("incident.j2", extra, incident=incident, silenced=silenced)


def _record(
    transaction: sqlite3.Connection,
    event: str,
    actor: str,
    tenant: str,
    incident: int,
    detail: Mapping[str, object],
    now: float,
) -> None:
    audit.record(transaction, audit.Event(event, actor, tenant, detail={"incident": incident, **detail}), now)


def _note(transaction: sqlite3.Connection, incident: int, text: str) -> None:
    """Queue a message for the thread of an incident."""
    transaction.execute("INSERT INTO incident_notes (incident, text) VALUES (?,?)", (incident, text))
