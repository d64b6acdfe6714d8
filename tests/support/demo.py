"""`make demo`: plays the README's story by itself in the local workspace of `make up`, and prints it as it goes."""

from __future__ import annotations

import html
import re
import sys
import time

from bot import local_stack
from bot.lxd.protocol import LxdError
from bot.providers import open_edge, open_servers
from bot.settings import InvalidSettings, load
from tests.support.workspace import Json, Workspace, eventually

CHANNEL = "mautic-ops"


class Story:
    """One run of the story: prints what people and the bot say, and measures the seconds of each part."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.seconds: dict[str, float] = {}
        self.began = time.monotonic()

    def part(self, title: str) -> None:
        """End a part, and record its seconds."""
        self.seconds[title] = time.monotonic() - self.began
        self.began = time.monotonic()

    def say(self, who: str, text: str) -> None:
        """Print a line of the conversation."""
        text = re.sub(r"<@(\w+)>", lambda found: "@" + self._name(found[1]), text)
        # A date becomes its fallback text, a link its target.
        text = html.unescape(re.sub(r"<(?:!date[^|>]*\|([^>]*)|(http[^|>]*)[^>]*)>", r"\1\2", text))
        print(f"{who:>16}: " + text.replace("\n", "\n" + " " * 18), flush=True)

    def _name(self, user: str) -> str:
        return next((one["name"] for one in self.workspace.users() if one["id"] == user), user)

    def operation(self, who: str, words: str, approver: str, reply: str, done: str) -> str:
        """Ask, have it approved by a typed reply in the thread (if `reply` is one), and return the outcome's text."""
        before = {message["ts"] for message in self.workspace.messages(CHANNEL)}
        self.command(who, words)

        def posted() -> Json | None:
            return next((m for m in self.workspace.cards(CHANNEL) if m["ts"] not in before), None)

        card = eventually(posted)
        assert card
        self.say("mautic", card["text"])
        if reply:
            self.workspace.message(approver, CHANNEL, reply, thread_ts=card["ts"])
            self.say(approver, f"(in the thread) {reply}")

        def outcome() -> str:
            texts = [message["text"] for message in self.workspace.messages(CHANNEL, thread_ts=card["ts"])]
            return next((text for text in texts if done in text or ":x: <@" in text), "")

        text = eventually(outcome, 120)
        self.say("mautic", f"(in the thread) {text}")
        if done not in text:
            sys.exit("The story did not end well.")
        return text

    def query(self, who: str, words: str) -> None:
        """Ask, and print the answer, which only this person sees."""
        before = {message["ts"] for message in self.workspace.messages(CHANNEL, who)}
        self.command(who, words)

        def answer() -> Json | None:
            new = [m for m in self.workspace.messages(CHANNEL, who) if m["ts"] not in before and m.get("is_ephemeral")]
            return new[0] if new else None

        found = eventually(answer)
        assert found
        texts = [block["text"]["text"] for block in found["blocks"] if block.get("text")]
        self.say("mautic", f"(only to {who}) " + "\n".join(texts))

    def command(self, who: str, words: str) -> None:
        """Type a slash command."""
        self.say(who, f"/mautic {words}")
        refused = self.workspace.command(who, CHANNEL, f"/mautic {words}").get("error")
        if refused:
            sys.exit(str(refused))


def main() -> int:
    """Run the story; return 0 only if the tenant really answered, or if everything is simulated and says so."""
    local_stack.refuse_a_real_team()
    local_stack.up()
    settings = load()
    edge = open_edge(settings, open_servers(settings))
    name = f"demo-{int(time.time()) % 100_000}"
    domain = f"{name}.{settings.bot.base_domain}"
    story = Story(Workspace(f"http://127.0.0.1:{local_stack.port()}"))
    print()
    story.operation("account-manager", f"new {name} --note 'spring campaign'", "ops-lead", "approve", "is live")
    story.part("new → live")
    if settings.lxd.simulated:
        print("        (nobody): simulated: there is no page to look at")
    else:
        seen = edge.probe(domain)
        answered = f"{seen.status} in {seen.seconds:.2f} s, certificate verified"
        print(f"       (browser): GET https://{domain}/s/login → {answered}")
        if not seen.login:
            return 1
    story.part("its login page")
    story.query("account-manager", f"status {name}")
    story.part("status")
    taken = story.operation("operator", f"snapshot {name} --note 'before the sale'", "", "", "taken: ")
    story.part("snapshot")
    snapshot = re.search(r"s-[\dm-]+\d", taken)
    assert snapshot
    story.operation("operator", f"restore {name} {snapshot[0]}", "ops-lead", f"approve {name}", "is restored to")
    story.part("restore")
    story.query("ops-lead", "digest")
    story.part("digest")
    story.query("account-manager", f"history {name}")
    story.part("history")
    story.operation("operator", f"delete {name}", "ops-lead", f"approve {name}", "is archived")
    story.part("delete")
    if not settings.lxd.simulated and edge.probe(domain).login:
        print("The page still answers.")
        return 1
    print("\n" + "\n".join(f"{seconds:7.1f} s  {title}" for title, seconds in story.seconds.items()))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (InvalidSettings, LxdError, local_stack.CannotBringUp) as error:
        sys.exit(f"mautic-ops: {error}")
