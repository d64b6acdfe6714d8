"""Which commands and options of Mautic's console a person may use."""

import pytest

from bot.guest.console import ALLOWED, NotAllowed, allowed


@pytest.mark.parametrize(
    ("typed", "run"),
    [
        ("cache:clear", ["cache:clear"]),
        ("mautic:segments:update --list-id=3 --timing", ["mautic:segments:update", "--list-id=3", "--timing"]),
        ("mautic:segments:update --list-id 3", ["mautic:segments:update", "--list-id=3"]),
        ("mautic:campaigns:trigger --contact-ids=1,2", ["mautic:campaigns:trigger", "--contact-ids=1,2"]),
        ("mautic:broadcasts:send --channel email", ["mautic:broadcasts:send", "--channel=email"]),
        (
            "mautic:integration:fetchleads --integration Salesforce",
            ["mautic:integration:fetchleads", "--integration=Salesforce"],
        ),
    ],
)
def test_an_allowed_command_is_normalised(typed: str, run: list[str]) -> None:
    assert allowed(typed.split()) == run


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("", "Which command? Allowed: `cache:clear`"),
        ("mautic:segment:update", "Did you mean `mautic:segments:update`"),
        ("mautic:install https://x", "`mautic:install` is not allowed"),
        ("mautic:import --limits=3", "Did you mean `--limit`"),
        ("mautic:import 3", "does not accept `3` here. Allowed: `--id`, `--limit`"),
        ("mautic:import -i 3", "does not accept `-i` here"),
        ("cache:clear --env=dev", "It takes no options"),
        ("mautic:import --id=3;rm", "`--id` of `mautic:import` takes a number"),
        ("mautic:import --id", "takes a number"),
        ("mautic:campaigns:trigger --contact-ids=1,", "takes numbers with commas"),
        ("mautic:broadcasts:send --channel=--x", "takes a word"),
        ("mautic:integration:fetchleads --integration=--x", "takes a name"),
        ("mautic:segments:update --timing=3", "takes no value"),
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(typed: str, says: str) -> None:
    with pytest.raises(NotAllowed) as refused:
        allowed(typed.split())
    assert says in str(refused.value)


def test_no_allowed_command_installs_updates_or_deletes() -> None:
    for command in ALLOWED:
        assert not any(word in command for word in ("install", "migrate", "delete", "purge", "cleanup", "update:apply"))
