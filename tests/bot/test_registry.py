"""The words of a command: as people and phones write them, and how wrong ones are refused."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import commands
from bot.engine.registry import Registry
from bot.model.plan import Refused
from bot.model.text import told
from bot.model.words import plain, split
from bot.slack.messages import Renderer
from tests.support.judge import judge

REGISTRY = Registry(commands)
RENDERER = Renderer()


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("", "help", {}),
        ("new", "new", {}),
        ("new client-x", "new", {"tenant": "client-x"}),
        ("NEW Client-X", "new", {"tenant": "client-x"}),
        ("new client-x --plan medium", "new", {"tenant": "client-x", "plan": "medium"}),
        ("new client-x --plan=medium", "new", {"tenant": "client-x", "plan": "medium"}),
        ("new client-x —plan medium", "new", {"tenant": "client-x", "plan": "medium"}),
        ("new client-x \N{EN DASH}plan medium", "new", {"tenant": "client-x", "plan": "medium"}),
        ("new “client-x” --note “it's spring”", "new", {"tenant": "client-x", "note": "it's spring"}),
        ("new `client-x`", "new", {"tenant": "client-x"}),
        ("new client-x ——note due —Plan large", "new", {"tenant": "client-x", "note": "due", "plan": "large"}),
        ("new client-x —Note=«due friday»", "new", {"tenant": "client-x", "note": "due friday"}),
        ("new client-x --Note « due friday »", "new", {"tenant": "client-x", "note": "due friday"}),
        (
            "new client-x --note »due friday« --plan large",
            "new",
            {"tenant": "client-x", "note": "due friday", "plan": "large"},
        ),
        ("new client-x --note „due friday“", "new", {"tenant": "client-x", "note": "due friday"}),
        ("new client-x --note \u2018due friday\u2019", "new", {"tenant": "client-x", "note": "due friday"}),
        ("new client-x --note “see —Tom”", "new", {"tenant": "client-x", "note": "see —Tom"}),
        ("new client-x --note=it\u2019s --plan=large", "new", {"tenant": "client-x", "note": "it's", "plan": "large"}),
        (
            "new client-x --note 'it\u2019s the clients\u2019 own'",
            "new",
            {"tenant": "client-x", "note": "it's the clients' own"},
        ),
        ("`status client-x`", "status", {"tenant": "client-x"}),
        ("```status client-x```", "status", {"tenant": "client-x"}),
        ("*status client-x*", "status", {"tenant": "client-x"}),
        ("*status* _client-x_", "status", {"tenant": "client-x"}),
        ("`/mautic status client-x`", "status", {"tenant": "client-x"}),
        ("/mautic status client-x", "status", {"tenant": "client-x"}),
        ("new client-x `--plan large`", "new", {"tenant": "client-x", "plan": "large"}),
        ("new client-x --note `due friday`", "new", {"tenant": "client-x", "note": "due friday"}),
        ("new client\u2011x\u200b", "new", {"tenant": "client-x"}),
        ("\ufeffnew\u202fclient\u00adx", "new", {"tenant": "clientx"}),
        (
            "new client-x --note 'a b' --domain 'm.client.com'",
            "new",
            {"tenant": "client-x", "note": "a b", "domain": "m.client.com"},
        ),
        ("status client-x.", "status", {"tenant": "client-x"}),
        ("snapshots client-x", "snapshots", {"tenant": "client-x"}),
        (
            "deny 3 because it\u2019s Bob\u2019s —Tom",
            "deny",
            {"id": 3, "because": ("because", "it's", "Bob's", "--Tom")},
        ),
        ("deny 3 --force is *bad*", "deny", {"id": 3, "because": ("--force", "is", "bad")}),
        ("new client-x --note 'R&amp;D &lt;3'", "new", {"tenant": "client-x", "note": "R&D <3"}),
        (
            "new client-x --domain <http://m.client.com|m.client.com>",
            "new",
            {"tenant": "client-x", "domain": "m.client.com"},
        ),
        ("new client-x\u00a0--plan\u00a0large", "new", {"tenant": "client-x", "plan": "large"}),
        ("approve 3", "approve", {"id": 3}),
        ("approve #3 client-x", "approve", {"id": 3, "tenant": "client-x"}),
        ("deny 3 because it's late", "deny", {"id": 3, "because": ("because", "it's", "late")}),
        ("list --page 2 --archived", "list", {"page": 2, "archived": True}),
        ("history", "history", {}),
        ("audit verify", "audit", {"what": "verify"}),
    ],
)
def test_words_become_a_command(text: str, name: str, arguments: dict[str, Any]) -> None:
    command, bound = REGISTRY.parse(text)
    assert (command.name, bound) == (name, arguments)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nwe client-x", "I don't know “nwe”. Did you mean `/mautic new`?"),
        ("qqq", "I don't know “qqq”. `/mautic help` lists all commands."),
        ("new client-x --paln small", "There is no option “--paln”. Did you mean “--plan”?"),
        ("new client-x extra", "Names can't contain spaces. Did you mean `client-x-extra`?"),
        ("list a b", "Unexpected word: “b”. Usage: `/mautic list"),
        ("list --sort plan", "There is no option “--sort”. Usage"),
        ("status client-x now please", "Unexpected words: “now”, “please”."),
        ("new client-x --plan", "“plan” is missing."),
        ("status", "“tenant” is missing. Usage: `/mautic status <tenant>`"),
        ("approve", "“id” is missing. Usage: `/mautic approve <id> [tenant] [choice]`"),
        ("approve 3.5", "“3.5” isn't a request number"),
        ("approve -3", "“-3” isn't a request number"),
        (f"approve {'9' * 30}", "isn't a request number"),
        ("audit verfy", "Did you mean “verify”?"),
        ("list --page x", "--page takes a number, and “x” isn't one. Usage: `/mautic list"),
        (
            "new Bad_Name",
            "Use lower-case letters, digits and hyphens, with no hyphen at the start or end. Did you mean `bad-name`?",
        ),
        ("new client q", "Names can't contain spaces. Did you mean `client-q`?"),
        ("audit frob", "“frob” isn't one of: recent, verify, export. Usage"),
        ("logs client-x nginx --lines 5000", "--lines can be at most 500."),
        ("new client-x -zzz", "There is no option “-zzz”."),
        ("resize client-x", "Usage: `/mautic resize <tenant> --plan …"),
        ("please make me a mautic", "I don't know “please”. `/mautic new` creates a tenant, `/mautic list`"),
        ("hi there", "I don't know “hi”. `/mautic new` creates a tenant"),
        ("new admin", "is reserved"),
        ("new client-x --domain https://x.com/", "is not a domain"),
    ],
)
def test_wrong_words_are_refused_with_advice(text: str, why: str) -> None:
    with pytest.raises(Refused) as refused:
        REGISTRY.parse(text)
    assert why in str(refused.value)


def test_the_usage_shows_the_values_of_an_option() -> None:
    usages = Registry(commands, ("small", "large")).commands
    assert usages["resize"].usage == "resize <tenant> --plan small|large"
    assert "[--plan small|large]" in usages["new"].usage
    assert "[--mail send|drop|off]" in usages["start"].usage
    assert "[--part all|worker|cron|web|database]" in usages["restart"].usage


def test_help_texts_do_not_keep_the_line_breaks_of_the_source() -> None:
    for command in REGISTRY.commands.values():
        for paragraph in command.help.split("\n\n"):
            assert "\n" not in paragraph, command.name


def test_the_nearest_plan_is_suggested(tmp_path: Any) -> None:
    from tests.support.bot import make_bench

    bench = make_bench(tmp_path)
    with pytest.raises(Refused, match=r"no plan “smal”; did you mean `small`\?"):
        bench.answer("new client-x --plan smal")
    with pytest.raises(Refused, match="no plan “zzz”; available: small, medium, large"):
        bench.answer("new client-x --plan zzz")


def test_an_apostrophe_is_no_quotation_mark() -> None:
    assert split("deny 3 it's late") == ["deny", "3", "it's", "late"]


def test_slacks_links_and_entities_become_plain_text() -> None:
    assert plain("see <https://a.com/x|a.com/x> &amp; <https://b.com> &lt;b&gt;") == "see a.com/x & https://b.com <b>"


def test_every_command_has_a_usage_and_a_summary() -> None:
    for command in REGISTRY.commands.values():
        assert command.usage.startswith(command.name)
        assert command.summary
        assert "`" not in command.usage, "it is shown as code"


def test_a_module_that_declares_no_command_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "idle_commands").mkdir()
    (tmp_path / "idle_commands" / "nothing.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    package = ModuleType("idle_commands")
    package.__path__ = [str(tmp_path / "idle_commands")]
    with pytest.raises(RuntimeError, match="it declares 0"):
        Registry(package)


names = st.sampled_from(sorted(REGISTRY.commands))
words = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["--plan", "—plan", "--note=", "client-x", "<!channel>", "<@U0VICTIM>", "&lt;!here&gt;", "`", "“", "'"]
    ),
    st.integers().map(str),
    st.text("-=\N{EN DASH}—<>@!&;|`'\"*_~# ", max_size=10),
)
lines = st.one_of(
    st.text(max_size=200),
    st.tuples(names, st.lists(words, max_size=6)).map(lambda made: " ".join([made[0], *made[1]])),
)


@given(lines)
def test_any_text_is_a_command_or_refused_in_a_message_that_slack_accepts(text: str) -> None:
    try:
        command, arguments = REGISTRY.parse(text)
    except Refused as refused:
        judge(RENDERER.say(f":warning: {told(str(refused), text)}"))
    else:
        assert command.name in REGISTRY.commands
        assert isinstance(arguments, dict)
