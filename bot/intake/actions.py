"""Handles buttons, replies and submitted windows: decisions on operations, and commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from bot.engine.approvals import almost, decision
from bot.engine.attention import told as aftermath_told
from bot.engine.context import Context
from bot.engine.guards import Change, Guards, Moment
from bot.engine.maintenance import failing
from bot.engine.registry import Command
from bot.engine.remedy_values import values_of
from bot.model.actor import Actor
from bot.model.plan import Refused
from bot.model.remedies import RETRY
from bot.model.text import escape, line, names, sentence
from bot.model.words import typed
from bot.settings import Policy
from bot.slack.announcer import Announcer
from bot.slack.messages import Message, Modal, modal, section, select_input, text_input
from bot.slack.people import People
from bot.slack.poster import NotPosted
from bot.store import batches, recovery
from bot.store.operation import Operation
from bot.store.operations import Operations

BATCH: Mapping[str, Callable[[Operations, Operation, str], None]] = {
    "batch_pause": batches.pause,
    "batch_go_on": batches.go_on,
    "batch_stop": batches.stop,
}
"""Buttons of a batch in progress."""


class Actions:
    """Handles buttons, typed replies and submitted windows. Raises Refused for people who may not use them.

    Args:
        invoke: runs a command; takes the delivery's key and payload, the person, the command and its arguments.
        answer: sends a message to the person who caused a delivery.
    """

    def __init__(
        self,
        context: Context,
        people: People,
        announcer: Announcer,
        invoke: Callable[[str, dict[str, Any], Actor, Command, dict[str, Any]], None],
        answer: Callable[[dict[str, Any], Message], None],
    ) -> None:
        self.context = context
        self.people = people
        self.announcer = announcer
        self._invoke = invoke
        self._answer = answer

    def _actor(self, payload: dict[str, Any]) -> Actor:
        """Return the person with their current roles."""
        return self.people.actor(payload["user"], payload["team"], payload["channel"], fresh=True)

    def action(self, key: str, payload: dict[str, Any]) -> None:
        """Handle a button: its value names its subject, and the person's roles are checked at this moment."""
        actor = self._actor(payload)
        action, value = payload["action_id"], payload["value"]
        if action == "reveal":
            self._invoke(key, payload, actor, self.context.registry.command("credentials"), {"tenant": value})
            return
        if action.startswith("incident_"):
            self._on_incident(key, payload, actor, action.removeprefix("incident_"), value)
            return
        operation = self.context.operations.marked(value)
        verdict, _, choice = action.partition("_")
        if verdict == "approve" and self._asks_for_name(operation, actor):
            self.announcer.open_modal(payload["trigger_id"], name_window(operation, payload["channel"], choice))
        elif verdict in ("approve", "deny"):
            self._decide(operation, actor, verdict, choice=choice, via="button")
        elif action == "cancel":
            self.context.approvals.cancel(operation.id, actor)
        elif action in BATCH:
            self._refuse_unauthorised(operation, actor, own=action != "batch_go_on")
            BATCH[action](self.context.operations, operation, actor.id)
        elif action == "give_up":
            self.context.approvals.refuse_to_give_up(operation, actor)
            self.announcer.open_modal(payload["trigger_id"], _give_up_window(operation, payload["channel"]))
        elif action in ("retry", "undo"):
            self._refuse_unauthorised(operation, actor, own=action == "retry")
            if payload.get("taken_up") and self._had_its_effect(operation, actor, action, payload["late"]):
                return
            if action == "retry":
                Guards(self.context).refuse(Moment.RETRY, Change.of(operation, actor))
                batches.retry(self.context.operations, operation, actor.id)
            else:
                recovery.undo(self.context.operations, operation, actor.id)

    def _refuse_unauthorised(self, operation: Operation, actor: Actor, *, own: bool) -> None:
        """Raise Refused unless the person may decide on the operation, or requested it and still may.

        `own`: the requester may use the button whatever their roles are now, as the button ends something, or a guard
        checks the policy.
        """
        policy = self.context.settings.policy(operation.command)
        may = set(policy.approve)
        if operation.state == "needs_attention":
            # The people who were called to it may use its buttons.
            may |= set(self.context.settings.responders(operation.command))
        if actor.roles & may:
            return
        if actor.id != operation.requester:
            raise Refused(f"Only <@{operation.requester}> or an approver can use this button.")
        if not own and not actor.roles & set(policy.ask):
            others = names(policy.approve or policy.ask)
            raise Refused(f"Only {others} can use this button: you can no longer request `{operation.command}`.")

    def _had_its_effect(self, operation: Operation, actor: Actor, action: str, late: float) -> bool:
        """Return whether a press repeated after a crash had taken effect: unlike a decision, it could be done twice."""
        event = {"retry": "operation.retried", "undo": "operation.undo_asked"}[action]
        done = "SELECT 1 FROM audit WHERE tenant = ? AND operation = ? AND event = ? AND actor = ? AND at >= ?"
        since = self.context.now() - late
        return bool(self.context.database.read(done, operation.tenant, operation.id, event, actor.id, since))

    def _on_incident(self, key: str, payload: dict[str, Any], actor: Actor, action: str, mark: str) -> None:
        """Handle a button of an incident: run a command on its tenant as the person, or silence the incident."""
        incident = self.context.incidents.marked(mark)
        if action == "silence":
            may = self.context.settings.policy("silence").ask
            if not actor.roles & set(may):
                raise Refused(f"Only {names(may, 2)} can silence incidents.")
            self.context.incidents.silence(mark, actor.id)
            with suppress(NotPosted):
                self.context.incidents.announce()
            return
        remedy = incident.row.buttons.get(action)
        values = {"tenant": incident.tenant, **values_of(self.context, incident.kind)}
        given = remedy.given(values) if remedy else None
        if given is None:
            raise Refused("This button no longer helps against that incident.")
        if action == RETRY:
            self._retry_maintenance(payload, actor, incident.tenant)
            return
        self._invoke(key, payload, actor, self.context.registry.command(action), given)

    def _retry_maintenance(self, payload: dict[str, Any], actor: Actor, tenant: str) -> None:
        """Retry a failing background task, which has no card of its own."""
        failed = [one for one in failing(self.context) if one.tenant == tenant]
        if not failed:
            raise Refused(f"No background task of `{tenant}` is failing any more.")
        last = max(failed, key=lambda one: one.operation)
        may = self.context.settings.policy(last.command).approve
        if not actor.roles & set(may):
            raise Refused(f"Only {names(may, 2)} can retry background tasks.")
        operation = self.context.operations.get(last.operation)
        Guards(self.context).refuse(Moment.RETRY, Change.of(operation, actor))
        recovery.retry(self.context.operations, operation, actor.id)
        said = f":arrows_counterclockwise: Retrying {operation.named}. The result will be posted here."
        self._answer(payload, self.context.renderer.say(said))

    def _asks_for_name(self, operation: Operation, actor: Actor) -> bool:
        policy = self.context.settings.policy(operation.command)
        pending = operation.state == "awaiting_approval"
        may = bool(actor.roles & set(policy.approve)) and actor.id != operation.requester
        return bool(policy.step_up) and pending and may

    def _decide(
        self,
        operation: Operation,
        actor: Actor,
        verdict: str,
        *,
        reason: str = "",
        typed: str = "",
        choice: str = "",
        via: str,
    ) -> None:
        self.context.approvals.decide(
            operation.id,
            actor,
            "approve" if verdict == "approve" else "deny",
            reason=reason,
            typed_name=typed,
            choice=choice,
            via=via,
        )

    def reply(self, key: str, payload: dict[str, Any]) -> None:
        """Handle a typed reply or a mention in an operation's thread: `approve`, `deny <reason>`, `cancel`."""
        words = decision(payload["text"])
        thread = payload["thread_ts"]
        operation = self.announcer.operation_at(payload["channel"], thread) if words and thread else None
        if not operation or not words:
            self._tell_what_counts(payload)
            if payload.get("mention"):
                raise Refused(
                    "In a request's thread, reply `approve`, `deny <reason>` or `cancel`. For everything else, type "
                    "`/mautic help`."
                )
            return
        actor = self._actor(payload)
        if payload.get("edited"):
            if operation.state != "awaiting_approval":
                return
            raise Refused("An edited message does not count as a decision. Nothing was changed; send a new reply.")
        if words["cancel"]:
            self.context.approvals.cancel(operation.id, actor)
        elif words["deny"]:
            self._decide(operation, actor, "deny", reason=words["reason"], via="reply")
        else:
            name, choice = (words["typed"] or "").lower(), (words["choice"] or "").lower()
            if not choice and name != operation.confirmation and name in operation.options:
                name, choice = "", name
            if name not in ("", operation.confirmation):
                raise Refused(
                    _uncounted(operation, self.context.settings.policy(operation.command, batch=operation.in_batch))
                )
            self._decide(operation, actor, "approve", typed=name, choice=choice, via="reply")

    def _tell_what_counts(self, payload: dict[str, Any]) -> None:
        """Refuse an unclear approval by somebody who may approve; ignore everybody else's talk."""
        if not payload["thread_ts"] or not almost(payload["text"]):
            return
        try:
            operation = self.announcer.operation_at(payload["channel"], payload["thread_ts"])
        except NotPosted:
            return
        if operation is None or operation.state != "awaiting_approval":
            return
        actor = self._actor(payload)
        policy = self.context.settings.policy(operation.command, batch=operation.in_batch)
        if actor.id != operation.requester and actor.roles & set(policy.approve):
            raise Refused(_uncounted(operation, policy))

    def submission(self, key: str, payload: dict[str, Any]) -> None:
        """Handle a submitted window: a command's form, or a typed name. Errors come as an ephemeral message."""
        actor = self._actor(payload)
        if payload["callback_id"] == "typed_name":
            operation = self.context.operations.marked(payload["metadata"]["operation"])
            name, choice = typed(payload["values"]["name"] or ""), payload["values"].get("choice") or ""
            self._decide(operation, actor, "approve", typed=name, choice=choice, via="modal")
            return
        if payload["callback_id"] == "give_up":
            operation = self.context.operations.marked(payload["metadata"]["operation"])
            because = (typed(payload["values"]["reason"] or ""),)
            command = self.context.registry.command("give-up")
            self._invoke(key, payload, actor, command, {"id": operation.id, "because": because})
            return
        command = self.context.registry.command(payload["metadata"]["command"])
        words = [command.name]
        for name, value in payload["values"].items():
            if value:
                value = typed(value).replace("`", "'")
                words.append(value if name == "tenant" else f"--{name}={value}")
        parsed, arguments = self.context.registry.bind(words)
        self._invoke(key, payload, actor, parsed, arguments)


_CHOOSE = "Option"


def _uncounted(operation: Operation, policy: Policy) -> str:
    """Return how to approve, for somebody whose reply does not count."""
    exactly = f"approve {operation.confirmation}" if policy.step_up else "approve"
    return f"I didn't count that as an approval. Tap Approve, or reply exactly `{exactly}`."


def _facts(operation: Operation) -> list[str]:
    return [f"*{escape(label)}:* {line(value)}" for label, value in operation.promised.items()]


def _give_up_window(operation: Operation, channel: str) -> Modal:
    left = aftermath_told(operation.aftermath)
    return modal(
        "give_up",
        "Give up",
        [
            section(f"*{escape(operation.plan['summary'])}* ends here: nothing more is done or rolled back."),
            *([section(sentence(left))] if left else []),
            text_input("reason", "Reason, kept in the audit log"),
        ],
        submit="Give up",
        metadata=json.dumps({"operation": operation.mark, "channel": channel}),
    )


def name_window(operation: Operation, channel: str, choice: str = "") -> Modal:
    """Return the window that asks for the tenant name, with the chosen option, which can be changed here."""
    what = "the number of tenants" if operation.children else "the tenant name"
    chosen = choice or operation.chosen
    options = operation.options if chosen else {}
    return modal(
        "typed_name",
        "Approve",
        [
            section("\n".join([f"*{escape(operation.plan['summary'])}*", *_facts(operation)])),
            text_input("name", f"Type {what} to approve: {operation.confirmation}"),
            *([select_input("choice", _CHOOSE, options, initial=chosen)] if options else []),
        ],
        submit="Approve",
        metadata=json.dumps({"operation": operation.mark, "channel": channel}),
    )
