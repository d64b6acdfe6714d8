"""Shows an operation as one live Slack message with a thread, rendered from state: each update repairs a lost one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from http.client import HTTPException
from typing import Any

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.webhook import WebhookClient

from bot.model.text import escape, names
from bot.model.turns import in_turn
from bot.settings import Policy, Settings
from bot.slack.messages import Block, Message, Modal, Renderer, actions, batch_buttons, button, decision_buttons
from bot.slack.notes import Notes
from bot.slack.poster import GONE, NotPosted, Post, failed, find, is_after, is_no_entry, search_from
from bot.store import batches
from bot.store.freezes import Freezes
from bot.store.operation import Operation
from bot.store.operations import Operations

log = logging.getLogger(__name__)
MARK = "mautic_operation"
PROGRESS = 1.5
"""Seconds between two updates of progress: Slack takes 50 updates a minute for all cards together."""
TURN = 3.0
"""Seconds after which the bot looks again whose turn it is: Slack takes one message a second in a channel."""


class Announcer:
    """Keeps every operation's card and thread up to date, from one thread and in order; answers people at once.

    Longer than other classes: cards and their threads share one queue, and the pace that Slack allows.
    """

    def __init__(self, client: WebClient, operations: Operations, renderer: Renderer, settings: Settings) -> None:
        self.client = client
        self.post = Post(client)
        self.operations = operations
        self.freezes = Freezes(operations)
        self.notes = Notes(operations, renderer, settings)
        self.renderer = renderer
        self.settings = settings
        self.mention: Callable[[Sequence[str]], str] = lambda roles: ""
        """Returns mrkdwn that mentions the people with one of the given roles."""
        unplaced = operations.database.read("SELECT id FROM operations WHERE message_ts = '' AND announced < revision")
        self._uncertain = {int(row["id"]) for row in unplaced}
        """Operations whose cards may have been posted without a record: by an earlier process, or without an answer."""
        self._unrecorded: dict[int, tuple[str, str]] = {}
        """Channel and ts of cards that were posted, for as long as the database cannot record them."""
        self._waiting: dict[int, tuple[float, float]] = {}
        self._progress_due = 0.0
        self._progress_now = True
        self._progress_left = False
        self._wake = threading.Event()
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)

    def start(self) -> None:
        """Start the thread, which begins with what a crash or an outage of Slack left unannounced."""
        self._thread.start()

    def wake(self) -> None:
        """Have the thread look for changes now."""
        self._wake.set()

    def stop(self) -> None:
        """Stop the thread once it has finished a round of announcements; wait for that for up to 5 s."""
        self._stop = True
        self._wake.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stop:
            self._wake.wait(1 if self._waiting or self._progress_left else 30)
            self._wake.clear()
            try:
                self.catch_up()
            except Exception as error:
                log.warning("cannot announce: %s", error)
                time.sleep(0.2)

    def catch_up(self) -> None:
        """Post and update all that is pending; what Slack refuses waits, longer each time, and delays nothing else.

        People take turns: somebody who requests a hundred things at once delays only themself.
        """
        self._progress_now, self._progress_left = time.monotonic() >= self._progress_due, False
        while not self._announced_all() and not self._stop:
            pass

    def _announced_all(self) -> bool:
        """Announce what is pending, for up to `TURN` seconds; return False if more is left."""
        where = "announced < revision OR id IN (SELECT operation FROM notes WHERE posted IS NULL)"
        over = time.monotonic() + TURN
        for operation in in_turn(self.operations.select(where), lambda one: one.requester):
            if time.monotonic() >= over:
                return False
            due, pause = self._waiting.get(operation.id, (0.0, 1.0))
            if time.monotonic() < due:
                continue
            try:
                self._announce(operation)
                self._waiting.pop(operation.id, None)
                if self.operations.database.read("SELECT 1 FROM unsaid WHERE operation = ?", operation.id):
                    self._unsaid(operation, None)
            except Exception as error:
                log.warning("cannot announce operation %s: %s", operation.id, error)
                self._waiting[operation.id] = (time.monotonic() + pause, min(2 * pause, 300.0))
                self._unsaid(operation, error)
        return True

    def _unsaid(self, operation: Operation, error: Exception | None) -> None:
        """Record since when and why Slack refuses the messages of an operation; `error` None: delete that record."""
        why = error.response.get("error") if isinstance(error, SlackApiError) else error
        with self.operations.database.transaction() as transaction:
            if error is None:
                transaction.execute("DELETE FROM unsaid WHERE operation = ?", (operation.id,))
            else:
                transaction.execute(
                    "INSERT INTO unsaid VALUES (?,?,?) ON CONFLICT (operation) DO UPDATE SET why = excluded.why",
                    (operation.id, self.operations.clock(), str(why)),
                )

    def _announce(self, operation: Operation) -> None:
        if operation.parent:
            self._announce_child(operation)
            return
        channel, ts = operation.channel, operation.message_ts
        if operation.announced < operation.revision and self._worth_showing(operation):
            channel, ts = self._show(operation, self.card(operation).arguments())
            self._record(operation, channel, ts)
        placed = replace(operation, channel=channel, message_ts=ts)
        for note in self.notes.waiting(operation.id):
            self.notes.post(self.post, placed, note, self._called(operation))

    def _announce_child(self, child: Operation) -> None:
        """Bring a child's line in the thread of its batch up to date, once the batch has its card."""
        batch = self.operations.get(child.parent)
        if not batch.message_ts or child.announced >= child.revision or not self._worth_showing(child):
            return
        channel, ts = self._show(replace(child, channel=batch.channel), self.card(child).arguments(), batch.message_ts)
        # A child has no channel of its own: a line outside its batch's thread is not updated, but posted anew.
        self._record(child, child.channel, ts if channel == batch.channel else "")

    def _record(self, operation: Operation, channel: str, ts: str) -> None:
        """Record where the card of an operation is, and that it shows this revision."""
        with self.operations.database.transaction() as transaction:
            transaction.execute(
                "UPDATE operations SET channel = ?, message_ts = ?, announced = ? WHERE id = ?",
                (channel, ts, operation.revision, operation.id),
            )
        # Not before: until it is recorded, the next round would post another card.
        self._uncertain.discard(operation.id)
        self._unrecorded.pop(operation.id, None)

    def _policy(self, operation: Operation) -> Policy:
        return self.settings.policy(operation.command, batch=operation.in_batch)

    def _called(self, operation: Operation) -> str:
        """Return a mention of the people who can put an operation right, to begin a sentence with."""
        called = self.mention(self.settings.responders(operation.command))
        return f"{called}: " if called else ""

    def _worth_showing(self, operation: Operation) -> bool:
        """Whether to update the card now: progress in steps can wait, every other change cannot."""
        if operation.state == "running" and operation.message_ts:
            if not self._progress_now:
                self._progress_left = True
                return False
            # One round updates all cards that are behind; each of them adds to the pause before the next round.
            self._progress_due = max(self._progress_due, time.monotonic()) + PROGRESS
        return True

    def _show(self, operation: Operation, card: dict[str, Any], thread_ts: str = "") -> tuple[str, str]:
        """Update the card, or post it if there is none that can be updated; return its channel and ts."""
        if operation.id in self._unrecorded:
            channel, ts = self._unrecorded[operation.id]
            operation = replace(operation, channel=channel, message_ts=ts)
        if operation.message_ts and self._updated(operation, operation.message_ts, card):
            return operation.channel, operation.message_ts
        found = self._posted_before_a_crash(operation, thread_ts)
        if found and self._updated(operation, found, card):
            return operation.channel, found
        self._uncertain.add(operation.id)
        try:
            posted = self._post(operation, operation.channel, card, thread_ts)
        except SlackApiError as error:
            if not is_no_entry(error):
                raise
            # The bot cannot post in the channel; the requester must hear of the operation all the same.
            posted = self._post(operation, self._direct(operation.requester), card)
        self._unrecorded[operation.id] = posted
        return posted

    def _updated(self, operation: Operation, ts: str, card: dict[str, Any]) -> bool:
        """Update a card; return False if it was removed or can no longer be edited, or the bot has lost the channel."""
        try:
            # Without metadata a card keeps what it has: the head on it is still to be compared with the audit log.
            metadata = self._metadata(operation) if self.operations.compared else None
            self.client.chat_update(channel=operation.channel, ts=ts, metadata=metadata, **card)
        except SlackApiError as error:
            if error.response.get("error") not in GONE and not is_no_entry(error):
                raise
            return False
        return True

    def _post(self, operation: Operation, channel: str, card: dict[str, Any], thread_ts: str = "") -> tuple[str, str]:
        posted = self.client.chat_postMessage(
            channel=channel, thread_ts=thread_ts or None, metadata=self._metadata(operation), **card
        )
        return channel, str(posted["ts"])

    def _metadata(self, operation: Operation) -> dict[str, Any]:
        return {"event_type": MARK, "event_payload": {"id": operation.mark, "audit": self.post.head()}}

    def _direct(self, user: str) -> str:
        """Return the id of the direct-message channel with a person."""
        return str(self.client.conversations_open(users=user)["channel"]["id"])

    def _posted_before_a_crash(self, operation: Operation, thread_ts: str = "") -> str:
        """Return the ts of a card that was posted but not recorded, as after a crash; "" if there is none.

        If there is a recorded one, which cannot be updated, only a later one counts.
        """
        if not operation.message_ts and operation.id not in self._uncertain:
            return ""

        def meant(message: dict[str, Any]) -> bool:
            return is_after(message, operation.message_ts) and _mark(message) == operation.mark

        try:
            if thread_ts:
                return find(self.client.conversations_replies, meant, channel=operation.channel, ts=thread_ts)
            since = search_from(operation.created, self.operations.clock()) - 60
            return find(self.client.conversations_history, meant, channel=operation.channel, oldest=str(since))
        except SlackApiError as error:
            if failed(error):
                raise
            log.info("cannot look for the card of operation %s: %s", operation.id, error.response.get("error"))
            return ""

    def operation_at(self, channel: str, ts: str) -> Operation | None:
        """Return the operation whose card is at a place in Slack, or None.

        Somebody can reply to a card before its place is recorded here: Slack's answer to the post comes late or is
        lost, or the process ends in between. Then Slack is asked for the card. Raises NotPosted if it does not answer.
        """
        # Read first: a card that gets its place meanwhile is found by the place.
        unplaced = self.operations.select("message_ts = '' AND state = 'awaiting_approval'")
        found = self.operations.select("channel = ? AND message_ts = ?", channel, ts)
        if unplaced and not found:
            try:
                page = self.client.conversations_replies(channel=channel, ts=ts, limit=1, include_all_metadata=True)
                ours = self.client.auth_test()["user_id"]
            except (SlackClientError, OSError, HTTPException) as error:
                raise NotPosted("Slack does not say which request this thread belongs to. Reply once more.") from error
            # Other apps may mark their messages in the same way.
            mark = _mark(page["messages"][0]) if page["messages"][0].get("user") == ours else ""
            found = [one for one in unplaced if one.mark == mark]
        return found[0] if found else None

    def card(self, operation: Operation, stands: batches.Standing | None = None) -> Message:
        """Render the current card of an operation, with the buttons that still apply.

        `stands`: the progress of a batch, if it is known already.
        """
        policy = self._policy(operation)
        if operation.children and operation.started and stands is None:
            stands = batches.standing(self.operations, operation.id)
        buttons: list[Block] = []
        if operation.state == "awaiting_approval":
            buttons = decision_buttons(operation.mark, operation.options, operation.chosen)
        elif stands and operation.state == "running" and not stands.stopped_by:
            buttons = batch_buttons(operation.mark, paused=bool(stands.paused_by), to_come=stands.to_come)
        elif operation.state == "queued" and operation.held_by == "time":
            buttons = [button("cancel", "Cancel request", operation.mark)]
        elif operation.state in ("failed", "needs_attention"):
            buttons = failure_buttons(operation)
        elif operation.state == "succeeded" and operation.command == "new":
            buttons = [button("reveal", "Show first credentials", operation.tenant)]
        extra = [actions(f"operation-{operation.id}", *buttons)] if buttons else []
        taken_back = bool(operation.undo_by) and operation.state in ("queued", "running")
        ahead = operation.state in ("awaiting_approval", "queued", "running") and not taken_back
        facts, asked = _promises(operation, ahead)
        return self.renderer.message(
            "batch.j2" if operation.children else "batch-child.j2" if operation.parent else "card.j2",
            extra,
            stands=stands,
            operation=operation,
            plan=operation.plan,
            policy=policy,
            deciders=names(policy.approve, policy.approvals),
            given=len(operation.decisions),
            called=self._called(operation) if operation.state == "needs_attention" else "",
            taken_back=taken_back,
            ahead=ahead,
            hopes=ahead or operation.state == "succeeded",
            facts=facts,
            asked=asked,
            # For a batch that has begun: the freeze that keeps its other children from beginning.
            frozen=self.freezes.on(operation.tenant) if ahead and (not operation.begun or stands) else None,
            steps=() if operation.state in ("denied", "expired", "cancelled") else operation.steps,
        )

    def answer(self, user: str, channel: str, response_url: str, message: Message, thread_ts: str = "") -> None:
        """Answer one person, visible to them alone: by response_url, else as an ephemeral, else as a direct message."""
        if response_url:
            try:
                answered = WebhookClient(response_url).send_dict({"response_type": "ephemeral", **message.arguments()})
                if answered.status_code == 200:
                    return
            except OSError as error:
                log.info("a response_url does not answer: %s", error)
        try:
            self.client.chat_postEphemeral(
                channel=channel, user=user, thread_ts=thread_ts or None, **message.arguments()
            )
        except SlackApiError as error:
            log.info("cannot answer %s in %s: %s", user, channel, error.response.get("error"))
            self.client.chat_postMessage(channel=self._direct(user), **message.arguments())

    def open_modal(self, trigger_id: str, modal: Modal) -> None:
        """Show a modal; its trigger is valid for 3 s from the click. Raises NotPosted if Slack does not show it all."""
        try:
            opened = self.client.views_open(trigger_id=trigger_id, view=modal.view)
            if modal.fill is not None:
                modal.fill(lambda view: self.client.views_update(view_id=opened["view"]["id"], view=view))
        except (SlackClientError, OSError) as error:
            why = error.response.get("error") if isinstance(error, SlackApiError) else error
            raise NotPosted(f"Slack did not open the window ({why}). Nothing is lost; try again.") from error


def failure_buttons(operation: Operation) -> list[Block]:
    """Return the buttons of a failed operation; if Retry or Undo loses something, the other one is coloured."""
    safe = operation.aftermath.get("safe", "")
    loses = escape(operation.aftermath["advice"]) if safe == "retry" else ""
    buttons = [button("retry", "Retry", operation.mark, "" if safe == "undo" else "primary")]
    if operation.state == "needs_attention" and operation.undoable:
        buttons.append(button("undo", "Undo", operation.mark, "primary" if safe == "undo" else "danger", sure=loses))
    if operation.state == "needs_attention":
        buttons.append(button("give_up", "Give up …", operation.mark))
    return buttons


def _promises(operation: Operation, ahead: bool) -> tuple[dict[str, str], dict[str, str]]:
    """Return the facts that are true of an operation, by label, and those that only describe what was requested.

    A plan tells what will be: if nothing was done, it is no fact that a page is closed, or what happens if it fails.
    """
    facts, remarks = operation.plan["facts"], operation.plan.get("remarks", {})
    last = {label: value for label, value in facts.items() if label not in operation.plan.get("until_done", ())}
    if ahead:
        return dict(operation.promised), {}
    if operation.state == "succeeded":
        return last, remarks
    return {}, {} if operation.state == "needs_attention" else last


def _mark(message: dict[str, Any]) -> str:
    """Return the mark of the operation whose card a message is; "" if it is no card."""
    metadata = message.get("metadata") or {}
    return str(metadata["event_payload"].get("id", "")) if metadata.get("event_type") == MARK else ""
