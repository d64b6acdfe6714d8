"""Dispatches Slack deliveries to commands and buttons, in lanes. The person is told about errors."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from bot.engine.approvals import decision
from bot.engine.context import Answer, Context
from bot.engine.errors import explain
from bot.engine.guards import FREEZE, Change, Guards, Moment
from bot.engine.registry import Command, call
from bot.guest.console import NAME
from bot.intake.actions import BATCH, Actions
from bot.model.actor import Actor
from bot.model.plan import Plan, Refused, UnknownWords
from bot.model.text import seconds, told
from bot.model.words import split
from bot.slack.announcer import Announcer
from bot.slack.messages import Message, Modal, modal
from bot.slack.people import MENTIONED, People
from bot.slack.poster import NotPosted
from bot.store import audit
from bot.store.database import DatabaseUnavailable
from bot.store.inbox import OF_ONE, Lane, close

log = logging.getLogger(__name__)
WINDOWS = frozenset({"give_up", "reveal"})
"""Buttons that only open a window."""
QUICK = WINDOWS | {"cancel", "deny", "help", "incident_retry", "incident_silence", "retry", "undo", "unfreeze", *BATCH}
"""Commands and buttons that ask no server."""
LATE = 60.0
"""Seconds after which a query that an outage left open is no longer answered."""
TOO_LATE = 300.0
"""Seconds after which a delivery that waited is no longer handled: its sender may have changed their mind."""


class Invocations:
    """Handles deliveries, and answers the person who sent each one, whatever happens."""

    def __init__(
        self, context: Context, people: People, announcer: Announcer, home: Callable[[str, str], None]
    ) -> None:
        self.context = context
        self.people = people
        self.announcer = announcer
        self.home = home
        presses = Actions(context, people, announcer, self._invoke, self._answer)
        self._kinds: dict[str, Callable[[str, dict[str, Any]], None]] = {
            "command": self.command,
            "action": presses.action,
            "reply": presses.reply,
            "submission": presses.submission,
            "home": lambda _, payload: self._show_home(payload),
        }

    def lane(self, kind: str, payload: dict[str, Any]) -> Lane:
        """Return the lane of a delivery. Asks no server, because one thread sorts all deliveries into lanes."""
        try:
            return self._lane(kind, payload)
        except Exception:
            # The worker that handles the delivery will refuse it.
            return "change"

    def _lane(self, kind: str, payload: dict[str, Any]) -> Lane:
        if kind == "home":
            return "question"
        if kind == "command":
            words = split(payload["text"]) or ["help"]
            command = self.context.registry.command(words[0].lower())
            opens = command.window == "always" or (command.window == "bare" and len(words) == 1)
            if opens or command.name in QUICK:
                return "quick"
            if command.name in ("approve", "freeze"):
                return "decision"
            return "question" if command.kind == "query" and not command.decides else "change"
        if kind == "reply":
            found = decision(payload["text"])
            return "decision" if found and found["approve"] else "quick"
        if kind == "submission":
            return "decision" if payload["callback_id"] == "typed_name" else "change"
        action = str(payload.get("action_id") or "")
        if action.partition("_")[0] == "approve":
            operation = self.context.operations.marked(payload["value"])
            return "quick" if self.context.settings.policy(operation.command).step_up else "decision"
        # A button in the Home tab renders the whole tab again, which includes the fleet.
        return (
            "quick"
            if action in (WINDOWS if payload.get("home") else QUICK)
            else "question"
            if self._asks(action)
            else "change"
        )

    def _asks(self, action: str) -> bool:
        """Return whether a button of an incident changes nothing."""
        of, _, name = action.partition("_")
        command = self.context.registry.commands.get(name) if of == "incident" else None
        return command is not None and command.kind == "query" and not command.decides

    def handle(self, kind: str, key: str, payload: dict[str, Any]) -> None:
        """Handle one delivery; errors go to the person and the audit log."""
        # JSON can carry half a surrogate pair, which cannot be stored.
        payload = json.loads(json.dumps(payload, ensure_ascii=False).encode(errors="replace"))
        if why := self._stale(kind, payload):
            if kind != "home":
                self._record_refusal(kind, key, payload, why, "")
                self._answer(payload, self.context.renderer.say(f":zzz: {told(why, '')}"))
            return
        try:
            self._kinds[kind](key, payload)
        except DatabaseUnavailable:
            # Nothing was done, and nobody is told so: the inbox repeats this once the database can be written.
            raise
        except Exception as error:
            why, identity = explain(error, f"handling {kind} {key}")
            kept = "What was typed is unknown, and not kept." if isinstance(error, UnknownWords) else why
            self._record_refusal(kind, key, payload, kept, identity, getattr(error, "guard", ""))
            typed = json.dumps([payload.get("text"), payload.get("values"), getattr(error, "typed", "")])
            self._answer(payload, self.context.renderer.say(f":warning: {told(why, typed)}"))
        if payload.get("home") and self.lane(kind, payload) != "quick":
            self._show_home(payload)

    def _stale(self, kind: str, payload: dict[str, Any]) -> str:
        """Return why a late delivery is not handled, as its sender may no longer want it; "" where it is handled."""
        late = payload.get("late", 0.0)
        words = split(payload.get("text", "")) if kind == "command" else []
        command = self.context.registry.commands.get(words[0].lower()) if words else None
        asks = kind == "home" or (command is not None and command.kind == "query" and not command.decides)
        if late <= (LATE if asks and payload.get("taken_up") else TOO_LATE):
            return ""
        if asks:
            asked = f"typed `/mautic {command.name} …`" if command else "opened the Home tab"
            return f"I was not running when you {asked} {seconds(late)} ago. Please try again."
        did = {
            "command": f"typed `/mautic {command.name if command else ''} …`",
            "action": "pressed a button",
            "reply": "replied in a thread",
        }.get(kind, "sent a window")
        return (
            f"You {did} {seconds(late)} ago, while I was not running. Nothing was changed. Check the current state, "
            "and try again if you still want to."
        )

    def excuse(self, payload: dict[str, Any], why: str) -> None:
        """Tell the sender that a delivery has to wait, or is not taken."""
        said = {
            "database": ":hourglass: My database can't be written right now. I'll do what you sent as soon as possible "
            f"within {seconds(int(TOO_LATE))}, or tell you that I did not.",
            "crowd": f":hourglass: {OF_ONE} of your messages are still waiting, so I did not take this one. Try again "
            "when some are done.",
        }[why]
        self._answer(payload, self.context.renderer.say(said))

    def _record_refusal(
        self, kind: str, key: str, payload: dict[str, Any], why: str, identity: str, guard: str = ""
    ) -> None:
        """Record a refusal and close its delivery, so that the delivery is not handled later."""
        try:
            self._refusal(kind, key, payload, why, identity, guard)
        except DatabaseUnavailable:
            raise
        except Exception:
            log.exception("the refusal could not be recorded: %s", why)

    def _refusal(self, kind: str, key: str, payload: dict[str, Any], why: str, identity: str, guard: str) -> None:
        what, tenant = str(payload.get("action_id") or payload.get("callback_id") or ""), ""
        if kind == "command":
            what, tenant = self._names(payload["text"])
        detail = {"what": what, "why": why, "error_id": identity} | ({"guard": guard} if guard else {})
        event = audit.Event(f"{kind}.refused", payload["user"], tenant, 0, detail)
        with self.context.database.transaction() as transaction:
            audit.record(transaction, event, self.context.now())
            close(transaction, key, time.time())

    def _names(self, text: str) -> tuple[str, str]:
        """Return the typed command (for `console` with Mautic's command) and tenant; other words may be secrets."""
        try:
            command, arguments = self.context.registry.parse(text)
        except Exception:
            first = text.split(maxsplit=1)[0].lower()
            return first if first in self.context.registry.commands else "", ""
        words = arguments.get("command", ()) if command.name == "console" else ()
        return " ".join([command.name, *filter(NAME.fullmatch, words[:1])]), arguments.get("tenant", "")

    def _answer(self, payload: dict[str, Any], message: Message) -> None:
        try:
            if payload.get("home"):
                # The Home tab has no channel: answer in a window over it, or directly when it is too late for a window.
                with suppress(NotPosted):
                    self.announcer.open_modal(payload["trigger_id"], modal("told", "Mautic", message.blocks))
                    return
            self.announcer.answer(
                payload["user"],
                payload["channel"],
                payload.get("response_url", ""),
                message,
                payload.get("thread_ts", ""),
            )
        except Exception as error:
            log.warning("cannot answer %s: %s", payload.get("user"), error)

    def _show_home(self, payload: dict[str, Any]) -> None:
        """Refresh the Home tab after a person opened it or pressed a button in it."""
        try:
            self.home(payload["user"], payload["team"])
        except Exception as error:
            log.warning("cannot show their Home tab to %s: %s", payload["user"], error)

    def _actor(self, payload: dict[str, Any], *, fresh: bool = False) -> Actor:
        return self.people.actor(payload["user"], payload["team"], payload["channel"], fresh=fresh)

    def command(self, key: str, payload: dict[str, Any]) -> None:
        """Parse a slash command, then answer (a query) or request approval (an operation)."""
        try:
            command, arguments = self.context.registry.parse(payload["text"])
        except Refused:
            # A person who may not use the bot is told that, not how to use a command.
            self._actor(payload)
            raise
        at_once = command.kind == "operation" and not self.context.settings.policy(command.name).approvals
        self._invoke(key, payload, self._actor(payload, fresh=command.fresh or at_once), command, arguments)

    def _invoke(
        self, key: str, payload: dict[str, Any], actor: Actor, command: Command, arguments: dict[str, Any]
    ) -> None:
        if self.context.operations.requested(key):
            # Delivered again after a crash: the request exists, and its card says the rest.
            return
        context = replace(self.context, actor=actor, channel=payload["channel"], delivery=key)
        if command.kind == "operation":
            result, mention = self._guarded(context, command, arguments)
        else:
            result, mention = call(command, context, arguments), ""
        if isinstance(result, Modal):
            if "trigger_id" not in payload:
                raise Refused(f"An argument is missing. Usage: `/mautic {command.usage}`")
            metadata = json.dumps({"channel": payload["channel"], "command": command.name})
            self.announcer.open_modal(
                payload["trigger_id"], replace(result, view=result.view | {"private_metadata": metadata})
            )
        elif isinstance(result, Plan):
            policy = context.settings.policy(command.name, batch=bool(result.children))
            context.operations.refuse_one_too_many(actor.id)
            context.operations.request(
                command.name,
                result,
                requester=actor.id,
                channel=payload["channel"],
                request_key=key,
                hours=policy.hours,
                approved=policy.approvals == 0,
                tell=f":bell: {mention}, please approve or deny this request." if mention else "",
            )
        else:
            self._answer(payload, result)

    def _guarded(self, context: Context, command: Command, arguments: dict[str, Any]) -> tuple[Plan | Answer, str]:
        """Return the plan or answer of an operation's command, and the mention of those who can approve the plan.

        Raises Refused where a guard refuses, or where nobody could approve.
        """
        guards, actor = Guards(context), context.actor
        tenant = str(arguments.get("tenant") or "")
        # Of a list of tenants, each is checked for a freeze when its plan is made.
        change = Change(command.name, "" if "," in tenant else tenant, actor)
        # A window has to open within three seconds and notifies nobody, so no people are looked up to mention.
        opens = command.window == "always" or (command.window == "bare" and not arguments)
        with context.fleet.reading_once():
            try:
                guards.refuse(Moment.REQUEST, change)
            except Refused as no:
                # Only the result tells whether this call just shows something.
                if no.guard != FREEZE or not command.shows:
                    raise
            mention = self.people.refuse_unless_decidable(command.name, actor.id, 0 if opens else MENTIONED)
            result = call(command, context, arguments)
            if isinstance(result, Plan):
                if result.children:
                    mention = self.people.refuse_unless_decidable(command.name, actor.id, batch=True)
                guards.refuse(Moment.REQUEST, replace(change, tenant=result.tenant, planned=True))
        return result, mention
