"""Settings: the shipped file is the schema; a mistake is named with its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.settings import InvalidSettings, Policy, load


def loaded(folder: Path, text: str, **environment: str) -> object:
    file = folder / "mautic-ops.toml"
    file.write_text(text)
    return load(file, environment)


def test_the_shipped_file_is_valid_and_whole() -> None:
    settings = load(environment={})
    assert settings.bot.base_domain == "mautic.localhost"
    assert settings.policy("new").approve == ["approver"]
    assert settings.policy("unarchive") == settings.policies["default"]
    assert list(settings.plans) == ["small", "medium", "large"]


def test_a_file_and_then_the_environment_win(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        '[bot]\nbase_domain = "m.agency.com"\nworkers = 2\n[plans.tiny]\ncpu = 1\nmemory = "1GiB"\n'
        'disk = "5GiB"\nprocesses = 500\ninnodb_buffer_pool = "128M"\nfpm_children = 2\nemail_workers = 1\n'
    )
    environment = {"MAUTIC_OPS_CONFIG": str(file), "MAUTIC_OPS_BOT__WORKERS": "8"}
    settings = load(environment=environment)
    assert (settings.bot.base_domain, settings.bot.workers) == ("m.agency.com", 8)
    assert settings.plans["tiny"].limits() == {
        "limits.cpu": "1",
        "limits.memory": "1GiB",
        "limits.processes": "500",
    }
    assert "small" in settings.plans


def test_a_policy_of_its_own_is_laid_over(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        '[policies.unarchive]\nask = ["operator"]\napprove = ["approver"]\napprovals = 2\nhours = 4\n'
        'step_up = "typed-name"\n'
    )
    assert load(file, {}).policy("unarchive") == Policy(["operator"], ["approver"], 2, 4, "typed-name")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[bot]\nbase_domian = 'x'", "no setting 'bot.base_domian'"),
        ("[bto]\nx = 1", "no setting 'bto'"),
        ("[bot]\nworkers = 'many'", r"bot\.workers"),
        ("[edge]\ntls = 'maybe'", r"edge\.tls"),
        ("[policies.new]\napprove = ['boss']", "policies.new names the role 'boss'"),
        ("[policies.new]\napprovals = -1", "policies.new.approvals is -1"),
        ("[policies.new]\nstep_up = 'dance'", "step_up"),
        ("[plans.tiny]\ncpu = 1", "plans"),
        ("[bot]\ntimezone = 'Europe/Berlinn'", "bot.timezone is 'Europe/Berlinn', which is no time zone"),
        ("[bot]\ntimezone = '../etc/passwd'", "no time zone"),
        ("[bot]\ntimezone = 'Europe'", "no time zone"),
        ("[bot]\ntimezone = ''", "no time zone"),
        ("[bot\n", "not valid TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InvalidSettings, match=why):
        loaded(tmp_path, text)


def test_a_file_that_is_named_but_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="cannot be read"):
        load(environment={"MAUTIC_OPS_CONFIG": str(tmp_path / "none.toml")})


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(InvalidSettings, match=r"MAUTIC_OPS_BOT__BASE_DOMIAN.*base_domian"):
        load(environment={"MAUTIC_OPS_BOT__BASE_DOMIAN": "x"})
    with pytest.raises(InvalidSettings, match=r"bot\.workers"):
        load(environment={"MAUTIC_OPS_BOT__WORKERS": "many"})
    with pytest.raises(InvalidSettings, match=r"MAUTIC_OPS_DIGETS__HOUR: there is no setting 'digets'"):
        load(environment={"MAUTIC_OPS_DIGETS__HOUR": "7"})
    with pytest.raises(InvalidSettings, match=r"MAUTIC_OPS_ROLES__APPROVER: \[roles\] is set in a file only"):
        load(environment={"MAUTIC_OPS_ROLES__APPROVER": "U0OPSLEAD"})


def test_tokens_come_from_the_environment_alone_and_are_not_shown(tmp_path: Path) -> None:
    tokens = {"SLACK_BOT_TOKEN": "xoxb-1", "SLACK_APP_TOKEN": "xapp-1", "SLACK_SIGNING_SECRET": "s3cret"}
    settings = load(environment=tokens)
    assert (settings.slack.bot_token, settings.slack.app_token) == ("xoxb-1", "xapp-1")
    assert not any(token in repr(settings) for token in tokens.values())
    with pytest.raises(InvalidSettings, match="bot_token"):
        loaded(tmp_path, "[slack]\nbot_token = 'xoxb-2'")


def test_an_address_names_the_port_only_where_it_is_not_the_usual_one() -> None:
    assert load(environment={}).edge.url("a.b") == "https://a.b"
    assert load(environment={"MAUTIC_OPS_EDGE__HTTPS_PORT": "8443"}).edge.url("a.b") == "https://a.b:8443"
