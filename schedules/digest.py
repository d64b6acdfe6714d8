"""Posts the digest once every morning, whatever fails."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, time

from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.model.text import seconds, sentence
from bot.reports import chart
from bot.reports.digest import Digest, TenantDay, gather
from bot.slack.messages import Message, Renderer
from bot.slack.poster import NotPosted, Refusal
from bot.store import metrics
from bot.store.metrics import AWAY, DAY

LATE = 30 * 60
"""Seconds after its hour from which on the digest says that it is late."""
SET_RIGHT = 5 * 60
"""Seconds that the clock may be set back by without another digest for today."""
LONGEST = 7 * DAY
"""Seconds that a digest looks back at most, when there was none for long."""
NEAR = 0.5
"""Share of a plan limit from which on a tenant may be in the chart."""
MOST = 60
"""The most tenants whose details are in the thread: the rest is counted."""


@schedule(seconds=60)
def digest(context: Context) -> None:
    """Post the digest every morning in the bot's channel, with a chart and each tenant's details in its thread.

    One a local day, after its hour; days on which the bot was away are not made up for. When the bot is back, or the
    machine was suspended, it is posted after the first sweep. What is to be said is written down before it is posted,
    and what a crash or a lost answer leaves uncertain is looked for in Slack: so nothing is said twice, and nothing is
    left out.
    """
    local = datetime.fromtimestamp(context.now(), context.renderer.zone)
    due = datetime.combine(local, time(context.settings.digest.hour), context.renderer.zone).timestamp()
    if not context.settings.slack.channel or context.now() < due:
        return
    (row, day), unsure = _known(context, local.date().isoformat()), True
    if row is None and _sweeps_first(context):
        return
    if row is None or not row["posted"]:
        ts = row and _found(context, row, _head(day))
        row, unsure = _record(context, day, ts, 1) if ts else _write_down(context, day, due), False
    if not row["ended"]:
        _say(context, row, unsure)


def _sweeps_first(context: Context) -> bool:
    """Return whether the first sweep after a gap has not ended yet: until then the state of every tenant is unknown."""
    now = context.now()
    sweep = next((job for job in context.jobs.all() if job.name == "health"), None)
    awake = metrics.awake_since(context.database, now).values()
    if sweep is None or sweep.started is None or sweep.paused or sweep.late or not awake or min(awake) < now:
        return False
    # A sweep in which no server answers records no look.
    return sweep.running or now - sweep.started > AWAY


def _head(day: str) -> str:
    return f"digest {day}"


def _known(context: Context, day: str) -> tuple[sqlite3.Row | None, str]:
    """Return the digest of a day, if there is one, and the name by which its messages are found.

    A digest that was made while the clock was ahead does not count, but its name is taken: its messages are in Slack.
    """
    rows = context.database.read("SELECT * FROM digests WHERE day GLOB ? ORDER BY rowid DESC", f"{day}*")
    made = [row for row in rows if row["at"] <= context.now() + SET_RIGHT]
    return (made[0], made[0]["day"]) if made else (None, day + " again" * len(rows))


def _found(context: Context, row: sqlite3.Row, key: str) -> str:
    """Return the ts of a part that may have been posted, or ""."""
    channel = context.settings.slack.channel
    return context.post.find(channel, key, since=row["at"] - DAY, thread_ts=row["ts"])


def _write_down(context: Context, day: str, due: float) -> sqlite3.Row:
    """Gather the digest of a day that has none, draw its chart, and store both before anything is posted."""
    now = context.now()
    before = "SELECT at FROM digests WHERE ts <> '' AND at < ? ORDER BY rowid DESC LIMIT 1"
    last = next((row["at"] for row in context.database.read(before, now)), now - DAY)
    expected = bool(context.database.read("SELECT 1 FROM digests LIMIT 1"))
    found = gather(context, max(last, now - LONGEST))
    drawn, alt, why = picture(found, context.settings.bot.timezone)
    head = context.renderer.message("digest.j2", digest=found, late=expected and now - due > LATE, due=due, missing=why)
    checkpoint = [context.renderer.message("digest-audit.j2", digest=found)] if found.head[0] else []
    messages = [asdict(one) for one in (head, *pages(context.renderer, found.speaking), *checkpoint)]
    said = json.dumps({"messages": messages, "alt": alt})
    with context.database.transaction() as transaction:
        transaction.execute(
            "INSERT OR REPLACE INTO digests (day, at, said, picture) VALUES (?,?,?,?)", (day, now, said, drawn)
        )
        return transaction.execute("SELECT * FROM digests WHERE day = ?", (day,)).fetchone()  # type: ignore[no-any-return]


def _say(context: Context, row: sqlite3.Row, unsure: bool) -> None:
    """Post what was stored, from where it was left off; `unsure`: the next part may have been posted already."""
    written = json.loads(row["said"])
    # An earlier release stored only the messages.
    said, alt = (written["messages"], written["alt"]) if isinstance(written, dict) else (written, "")
    head, *details = [Message(**one) for one in said]
    parts: list[tuple[str, Message | bytes]] = [(_head(row["day"]), head)]
    if row["picture"]:
        parts.append((f"digest-{row['day']}.png", row["picture"]))
    parts += [(f"digest {row['day']} details {number}", one) for number, one in enumerate(details)]
    ts = row["ts"]
    for number, (key, part) in enumerate(parts):
        if number < row["posted"]:
            continue
        made = (unsure and _found(context, row, key)) or _post(context, row, key, part, ts, alt)
        ts, unsure = ts or made, False
        _record(context, row["day"], ts, number + 1)
    with context.database.transaction() as transaction:
        transaction.execute(
            "UPDATE digests SET ended = ?, said = '[]', picture = x'' WHERE day = ?", (context.now(), row["day"])
        )


def _post(context: Context, row: sqlite3.Row, key: str, part: Message | bytes, ts: str, alt: str) -> str:
    channel = context.settings.slack.channel
    if isinstance(part, bytes):
        try:
            title = "Storage per host, and the tenants closest to their plan limit"
            context.post.picture(channel, part, name=key, title=title, thread_ts=ts, alt=alt)
            return ""
        except NotPosted as error:
            # Slack may have posted it without an answer: the next runs look for it, but not for ever.
            if not isinstance(error, Refusal) and context.now() - row["at"] < LATE:
                raise
            part = context.renderer.say(f":frame_with_picture: The chart could not be posted: {sentence(error)}")
    return context.post.post(channel, part, key=key, thread_ts=ts)


def _record(context: Context, day: str, ts: str, posted: int) -> sqlite3.Row:
    with context.database.transaction() as transaction:
        transaction.execute("UPDATE digests SET ts = ?, posted = ? WHERE day = ?", (ts, posted, day))
        return transaction.execute("SELECT * FROM digests WHERE day = ?", (day,)).fetchone()  # type: ignore[no-any-return]


def pages(renderer: Renderer, tenants: Sequence[TenantDay]) -> list[Message]:
    """Return the messages of the thread about tenants, the worst first."""
    more = max(0, len(tenants) - MOST)
    return renderer.pages(renderer.words("digest-tenants.j2", tenants=tenants[:MOST], more=more)) if tenants else []


def picture(found: Digest, timezone: str) -> tuple[bytes, str, str]:
    """Draw the history of the pools, and the tenants closest to their plan limit.

    Returns the PNG (b"" where there is nothing to draw, or it failed), what it shows, and why it failed.
    """
    bars = []
    for tenant in found.tenants:
        uses = {name: use for name, use in (("disk", tenant.disk), ("memory", tenant.memory)) if use}
        name = max(uses, key=lambda one: uses[one].share, default="")
        if name and uses[name].share >= NEAR:
            days = uses[name].days
            soon = f" · {seconds(days * DAY)}" if days is not None and days < 365 else ""
            words = f"{name} {uses[name].share:.0%}{soon}"
            bars.append(chart.Bar(tenant.name, uses[name].share, words, name in tenant.high))
    wanted = chart.chart([chart.Line(host, use.past) for host, use in found.pools.items()], bars, timezone)
    try:
        return (chart.png(wanted), chart.described(wanted), "") if wanted else (b"", "", "")
    except chart.CannotDraw as error:
        return b"", "", str(error)
