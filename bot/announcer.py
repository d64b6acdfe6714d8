"""The one live Slack message of an operation, and its thread. Rendered from state: a lost update heals at the next."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.webhook import WebhookClient

from bot.messages import Block, Message, Modal, Renderer, actions, button
from bot.operations import Operation, Operations
from bot.settings import Settings

log = logging.getLogger(__name__)
MARK = "mautic_operation"


class Announcer:
    """Brings every operation's card and thread up to date, and answers people. One thread posts, in order."""

    def __init__(self, client: WebClient, operations: Operations, renderer: Renderer, settings: Settings) -> None:
        self.client = client
        self.operations = operations
        self.renderer = renderer
        self.settings = settings
        self._wake = threading.Event()
        self._stop = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)

    def start(self) -> None:
        """Begin to announce, with what a crash or an outage of Slack left unsaid."""
        self._thread.start()

    def wake(self) -> None:
        """Something changed."""
        self._wake.set()

    def stop(self) -> None:
        """Say what is still to be said (for up to 5 s), and end."""
        self._stop = True
        self._wake.set()
        self._thread.join(5)

    def _run(self) -> None:
        pause = 1.0
        while True:
            self._wake.wait(30)
            self._wake.clear()
            try:
                self.catch_up()
                pause = 1.0
            except Exception as error:
                # Slack is down or limits us: what is unsaid is in the database, so wait and go on.
                log.warning("cannot announce: %s", error)
                self._wake.set()
                if self._stop:
                    return
                time.sleep(pause)
                pause = min(pause * 2, 30)
            if self._stop:
                return

    def catch_up(self) -> None:
        """Post and update all that is behind. Raises what Slack or the network raises."""
        where = "announced < revision OR id IN (SELECT operation FROM notes WHERE posted IS NULL)"
        failure: Exception | None = None
        for operation in self.operations.select(where):
            try:
                self._announce(operation)
            except Exception as error:
                # One channel that refuses must not hold up the others.
                failure = error
        if failure:
            raise failure

    def _announce(self, operation: Operation) -> None:
        ts = operation.message_ts
        if operation.announced < operation.revision:
            card = self.card(operation).arguments()
            if not ts and operation.announced == 0:
                ts = self._posted_before_a_crash(operation)
            if ts:
                self.client.chat_update(channel=operation.channel, ts=ts, **card)
            else:
                ts = self._post(operation, card)
            with self.operations.database.transaction() as transaction:
                transaction.execute(
                    "UPDATE operations SET message_ts = ?, announced = ? WHERE id = ?",
                    (ts, operation.revision, operation.id),
                )
        for note in self.operations.database.read(
            "SELECT id, text FROM notes WHERE operation = ? AND posted IS NULL ORDER BY id", operation.id
        ):
            message = self.renderer.say(note["text"]).arguments()
            self.client.chat_postMessage(channel=operation.channel, thread_ts=ts, **message)
            with self.operations.database.transaction() as transaction:
                transaction.execute("UPDATE notes SET posted = ? WHERE id = ?", (self.operations.clock(), note["id"]))

    def _post(self, operation: Operation, card: dict[str, Any]) -> str:
        metadata = {"event_type": MARK, "event_payload": {"id": str(operation.id)}}
        return str(self.client.chat_postMessage(channel=operation.channel, metadata=metadata, **card)["ts"])

    def _posted_before_a_crash(self, operation: Operation) -> str:
        """Find a card that was posted by a bot that died before it could write down where."""
        if time.time() - operation.created < 2:
            return ""
        history = self.client.conversations_history(
            channel=operation.channel,
            oldest=str(operation.created - 60),
            limit=200,
            include_all_metadata=True,
        )
        for message in history["messages"]:
            metadata = message.get("metadata") or {}
            if metadata.get("event_type") == MARK and metadata["event_payload"].get("id") == str(operation.id):
                return str(message["ts"])
        return ""

    def card(self, operation: Operation) -> Message:
        """Render the card of an operation as it stands, with the buttons that still have a meaning."""
        policy = self.settings.policy(operation.command)
        buttons: list[Block] = []
        if operation.state == "awaiting_approval":
            buttons = [
                button("approve", "Approve", operation.id, "primary"),
                button("deny", "Deny", operation.id, "danger"),
            ]
        elif operation.state in ("failed", "needs_attention"):
            buttons = [button("retry", "Retry", operation.id, "primary")]
            if operation.state == "needs_attention" and operation.plan["undoable"]:
                buttons.append(button("undo", "Undo", operation.id, "danger"))
        elif operation.state == "succeeded" and operation.command == "new":
            buttons = [button("reveal", "Show first credentials", operation.tenant)]
        extra = [actions(f"operation-{operation.id}", *buttons)] if buttons else []
        return self.renderer.message(
            "card.j2",
            extra,
            operation=operation,
            plan=operation.plan,
            policy=policy,
            given=len(operation.decisions),
        )

    def answer(self, user: str, channel: str, response_url: str, message: Message) -> None:
        """Answer one person, seen by them alone: by the response_url, or where that is over, as an ephemeral."""
        if response_url:
            answered = WebhookClient(response_url).send_dict({"response_type": "ephemeral", **message.arguments()})
            if answered.status_code == 200:
                return
        try:
            self.client.chat_postEphemeral(channel=channel, user=user, **message.arguments())
        except SlackApiError as error:
            log.warning("cannot answer %s in %s: %s", user, channel, error.response.get("error"))

    def answer_in_thread(self, user: str, channel: str, thread_ts: str, message: Message) -> None:
        """Answer one person in a thread, seen by them alone."""
        self.client.chat_postEphemeral(channel=channel, user=user, thread_ts=thread_ts, **message.arguments())

    def open_modal(self, trigger_id: str, modal: Modal) -> None:
        """Show a modal; the trigger lives 3 s from the click."""
        self.client.views_open(trigger_id=trigger_id, view=modal.view)

    def upload(self, channel: str, name: str, content: str, comment: str) -> None:
        """Share a text file in a channel."""
        self.client.files_upload_v2(channel=channel, filename=name, content=content, initial_comment=comment)
