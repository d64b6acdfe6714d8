"""Settings: the shipped file is the schema; a mistake is named with its key."""

from __future__ import annotations

import datetime
import json
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.model.forms import form_of, hints_of
from bot.settings import DEFAULTS, InvalidSettings, Policy, Settings, load


def loaded(folder: Path, text: str, **environment: str) -> object:
    file = folder / "mautic-ops.toml"
    file.write_text(text)
    return load(file, environment)


def test_the_shipped_file_is_valid_and_complete() -> None:
    settings = load(environment={})
    assert settings.bot.base_domain == "mautic.localhost"
    assert settings.policy("new").approve == ["approver"]
    assert settings.policy("unarchive") == settings.policies["default"]
    assert list(settings.plans) == ["small", "medium", "large"]


def test_a_file_overrides_the_defaults_and_the_environment_overrides_both(tmp_path: Path) -> None:
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


def test_a_renamed_setting_still_works_under_its_old_name(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("[retention]\nformer_days = 3\n")
    assert load(file, {}).retention.retired_days == 3
    assert load(environment={"MAUTIC_OPS_RETENTION__FORMER_DAYS": "4"}).retention.retired_days == 4
    file.write_text("[retention]\nformer_days = 3\nretired_days = 30\n")
    with pytest.raises(InvalidSettings, match="both are set; remove former_days"):
        load(file, {})


def test_a_policy_of_its_own_replaces_the_default_one(tmp_path: Path) -> None:
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
        ("[bot]\ntimezone = 'Europe/Berlinn'", "bot.timezone is 'Europe/Berlinn', .* a time zone's name"),
        ("[bot]\ntimezone = '../etc/passwd'", "a time zone's name"),
        ("[bot]\ntimezone = 'Europe'", "a time zone's name"),
        ("[bot]\ntimezone = ''", "a time zone's name"),
        ("[capacity]\nreserve = '120%'", r"capacity\.reserve is '120%', .* a share of a host's memory"),
        ("[capacity]\nreserve = '4 elephants'", r"capacity\.reserve"),
        ("[capacity]\novercommit = -1", r"capacity\.overcommit is -1"),
        ("[capacity]\nexpected = 0", r"capacity\.expected is 0, .* from 1 to 100"),
        ("[capacity]\nstarts = 0", r"capacity\.starts is 0, .* from 1 to 64"),
        ("[bot]\nworkers = 0", r"bot\.workers is 0, .* a whole number from 1 to 64"),
        ("[bot]\nworkers = true", r"bot\.workers is true, "),
        ("[bot]\nworkers = 2.5", r"bot\.workers is 2\.5, "),
        ("bot = 3", r"bot is 3; it has to be a table, `\[bot\]`"),
        ("[bot.workers]\nx = 1", r"bot\.workers is \{'x': 1\}, "),
        ("[bot]\nbase_domain = 'https://m.agency.com'", r"bot\.base_domain .* a domain without https://"),
        ("[bot]\nbase_domain = 'm.agency.com/x'", r"bot\.base_domain"),
        ("[bot]\nbase_domain = '203.0.113.7'", r"bot\.base_domain"),
        ("[bot]\nbase_domain = 'agency'", r"bot\.base_domain"),
        ("[bot]\nstate = ''", r"bot\.state"),
        ("[slack]\nchannel = '#mautic-ops'", r"slack\.channel is '#mautic-ops', .* the id of a channel"),
        ("[slack]\nchannel = 'mautic-ops'", r"slack\.channel .* the id of a channel"),
        ("[slack]\nhttp_port = 65536", r"slack\.http_port is 65536"),
        ("[slack]\napi = 'slack.com'", r"slack\.api is 'slack\.com'"),
        ("[lxd]\nendpoint = '10.0.0.5:8443'", r"lxd\.endpoint"),
        ("[lxd]\npool_size = '30G'", r"lxd\.pool_size is '30G', .* `4GiB`"),
        ("[lxd]\nsubnet = '10.70.0.0/24'", r"lxd\.subnet"),
        ("[lxd]\nreachable = '10.0.0.25:25'", r"lxd\.reachable is '10\.0\.0\.25:25', .* a list of IPv4 addresses"),
        ("[lxd]\nreachable = ['smtp.agency.com:25']", r"lxd\.reachable"),
        ("[lxd]\nreachable = ['10.0.0.25:0']", r"lxd\.reachable"),
        ("[lxd]\nreachable = ['10.0.0.25/8']", r"lxd\.reachable"),
        ("[lxd]\nsubnet = 'fd00::1/64'", r"lxd\.subnet"),
        ("[lxd]\nnetwork = 'a-bridge-with-a-long-name'", r"lxd\.network"),
        ("[lxd]\npool_driver = 'ext4'", r"lxd\.pool_driver"),
        ("[lxd]\ncertificate = 'client.crt'", r"lxd\.certificate and lxd\.key go together"),
        ("[servers.far]\nendpoint = 'far'", r"servers\.far\.endpoint"),
        ("[servers.far]\nlisten = '10.0.0.5'", r"servers\.far\.endpoint is missing"),
        ("[servers.'a/b']\nendpoint = '/x'", r"servers has 'a/b'; a name has letters"),
        ("[servers.local]\nendpoint = '/x'", r"servers\.local has the name of the server of \[lxd\]"),
        ("[edge]\nlisten = '::1'", r"edge\.listen is '::1', .* one IPv4 address"),
        ("[edge]\nlisten = '0.0.0.0'", r"edge\.listen is '0\.0\.0\.0', .* one IPv4 address"),
        ("[edge]\nlisten = 'eth0'", r"edge\.listen"),
        ("[edge]\nhttps_port = 0", r"edge\.https_port is 0"),
        ("[edge]\nhttps_port = 80", r"edge\.http_port and edge\.https_port are the same"),
        ("[edge]\nemail = 'ops at agency'", r"edge\.email"),
        ("[blueprint]\nsha256 = 'abc'", r"blueprint\.sha256 is 'abc', .* 64 hexadecimal digits"),
        ("[blueprint]\narchive = '/x.zip'", r"blueprint\.archive is set, and blueprint\.sha256 is not"),
        ("[releases.'6.0.10']\narchive = '/x.zip'", r"releases\.6\.0\.10\.sha256 is missing"),
        (
            f"[releases.latest]\narchive = '/x.zip'\nsha256 = '{'0' * 64}'",
            r'releases\."latest" is no version of Mautic',
        ),
        ("[advisories]\nextra = '/x.json'", r"advisories\.extra and advisories\.sha256 go together"),
        ("[advisories]\nrefuse = 'all'", r"advisories\.refuse is 'all', .* or empty"),
        ("[retention]\narchive_days = -1", r"retention\.archive_days is -1, .* from 0 to 100000"),
        ("[retention]\nretired_days = -1", r"retention\.retired_days is -1"),
        ("[retention]\ncredentials_hours = -1", r"retention\.credentials_hours is -1"),
        ("[snapshots]\nhourly = -1", r"snapshots\.hourly is -1"),
        ("[health]\ndisk = 101", r"health\.disk is 101, .* from 0 to 100"),
        ("[health]\nqueue_minutes = -5", r"health\.queue_minutes is -5"),
        ("[digest]\nhour = 24", r"digest\.hour is 24, .* from 0 to 23"),
        ("[roles.approver]\nusers = ['ops-lead']", r"roles\.approver\.users"),
        ("[roles.approver]\ngroups = ['Mautic approvers']", r"roles\.approver\.groups"),
        (
            "[roles.approver]\ngroups = 'mautic-approvers'",
            r"roles\.approver\.groups is 'mautic-approvers', .* a list of",
        ),
        ("[policies.new]\nhours = 0", r"policies\.new\.hours is 0, .* from 0\.1 to 8760"),
        ("[policies.new]\nhours = inf", r"policies\.new\.hours is inf"),
        ("[policies.new]\napprove = []", r"policies\.new\.approve names no role, so nobody could ever approve"),
        ("[policies.stop]\nask = ['operator']", r"policies\.stop\.approve is missing; it has to be a list of names"),
        ("[plans.small]\nmemory = '2G'", r"plans\.small\.memory is '2G', .* such as `4GiB` \(not `4G`\)"),
        ("[plans.small]\nmemory = '50%'", r"plans\.small\.memory"),
        ("[plans.small]\nmemory = '3'", r"plans\.small\.memory .* at least 256 MiB"),
        ("[plans.small]\ninnodb_buffer_pool = '768MiB'", r"plans\.small\.innodb_buffer_pool .* as MariaDB writes it"),
        (
            "[plans.small]\ninnodb_buffer_pool = '3G'",
            r"plans\.small\.innodb_buffer_pool is 3G; .* less than the plan's",
        ),
        ("[plans.small]\ncpu = 0", r"plans\.small\.cpu is 0"),
        ("[plans.small]\ncpus = 2", r"no setting 'plans\.small\.cpus'"),
        ("[plans.tiny]\ncpus = 2", r"no setting 'plans\.tiny\.cpus'"),
        ('[plans.tiny]\n"a\\nb" = 2', r"no setting 'plans\.tiny\.a\\nb'"),
        ("[bot\n", "not valid TOML"),
    ],
)
def test_a_mistake_is_refused_with_its_key(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InvalidSettings, match=why):
        loaded(tmp_path, text)


def test_a_settings_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="cannot be read"):
        load(environment={"MAUTIC_OPS_CONFIG": str(tmp_path / "none.toml")})


def test_a_wrong_environment_variable_is_named() -> None:
    with pytest.raises(InvalidSettings, match=r"MAUTIC_OPS_BOT__BASE_DOMIAN.*base_domian"):
        load(environment={"MAUTIC_OPS_BOT__BASE_DOMIAN": "x"})
    with pytest.raises(
        InvalidSettings, match=r"bot\.workers is 'abc', from MAUTIC_OPS_BOT__WORKERS; it has to be a whole"
    ):
        load(environment={"MAUTIC_OPS_BOT__WORKERS": "abc"})
    with pytest.raises(InvalidSettings, match=r"bot\.workers is '', from MAUTIC_OPS_BOT__WORKERS"):
        load(environment={"MAUTIC_OPS_BOT__WORKERS": ""})
    with pytest.raises(InvalidSettings, match=r"MAUTIC_OPS_DIGETS__HOUR: there is no setting 'digets'"):
        load(environment={"MAUTIC_OPS_DIGETS__HOUR": "7"})
    with pytest.raises(InvalidSettings, match=r"MAUTIC_OPS_ROLES__APPROVER: \[roles\] is set in a file only"):
        load(environment={"MAUTIC_OPS_ROLES__APPROVER": "U0OPSLEAD"})


def test_tokens_come_from_the_environment_only_and_are_not_shown(tmp_path: Path) -> None:
    tokens = {"SLACK_BOT_TOKEN": "xoxb-1", "SLACK_APP_TOKEN": "xapp-1", "SLACK_SIGNING_SECRET": "s3cret"}
    settings = load(environment=tokens)
    assert (settings.slack.bot_token, settings.slack.app_token) == ("xoxb-1", "xapp-1")
    assert not any(token in repr(settings) for token in tokens.values())
    with pytest.raises(InvalidSettings, match="bot_token"):
        loaded(tmp_path, "[slack]\nbot_token = 'xoxb-2'")


def test_a_url_names_the_port_only_where_it_is_not_the_usual_one() -> None:
    assert load(environment={}).edge.url("a.b") == "https://a.b"
    assert load(environment={"MAUTIC_OPS_EDGE__HTTPS_PORT": "8443"}).edge.url("a.b") == "https://a.b:8443"


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("[bot]\nbase_domain = 'M.Agency.COM'", "bot.base_domain", "m.agency.com"),
        ("[bot]\nbase_domain = 'müller.de'", "bot.base_domain", "xn--mller-kva.de"),
        ("[bot]\nstate = '~/state'", "bot.state", str(Path.home() / "state")),
        ("[lxd]\ncertificate = '~nobody-here/a'\nkey = 'b'", "lxd.certificate", "~nobody-here/a"),
        (
            f"[blueprint]\narchive = 'https://a.b/5.zip'\nsha256 = '{'0' * 64}'",
            "blueprint.archive",
            "https://a.b/5.zip",
        ),
        ("[edge]\nlisten = 'localhost'", "edge.listen", "127.0.0.1"),
        ("[slack]\nchannel = 'C0123456789'", "slack.channel", "C0123456789"),
        ("[blueprint]\nsha256 = ' " + "AB" * 32 + "'", "blueprint.sha256", "ab" * 32),
        ("[plans.small]\nmemory = '3000MB'", "plans.small.memory", "3000MB"),
        ("[policies.new]\nhours = 1", "policies.new.hours", 1.0),
        ("[retention]\narchive_days = 0", "retention.archive_days", 0),
        ("[roles.approver]\ngroups = ['@mautic-approvers']", "roles.approver.groups", ["mautic-approvers"]),
        ("[roles.approver]\ngroups = ['a-b', '@a-b']", "roles.approver.groups", ["a-b"]),
        ("[roles.approver]\ngroups = ['<!subteam^S01|@o>', 'S02']", "roles.approver.groups", ["S01", "S02"]),
        ("[roles.approver]\nusers = ['<@U0123ABC>', 'W0123ABC']", "roles.approver.users", ["U0123ABC", "W0123ABC"]),
    ],
)  # fmt: skip
def test_values_that_mean_the_same_are_normalised(tmp_path: Path, text: str, key: str, value: object) -> None:
    found: Any = loaded(tmp_path, text)
    for part in key.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value


def keys(shape: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key that is no table, with its type: `bot.workers`, `plans.*.cpu`."""
    if get_origin(shape) is Mapping:
        yield from keys(get_args(shape)[1], f"{key}.*")
        return
    for name, hint in hints_of(shape).items():
        where = f"{key}.{name}" if key else name
        if hasattr(hint, "__dataclass_fields__") or get_origin(hint) is Mapping:
            yield from keys(hint, where)
        else:
            yield where, hint


KEYS = dict(keys(Settings))


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_has_a_range_or_a_form(key: str) -> None:
    assert form_of(KEYS[key]), f"{key} takes anything; give it a form of bot/model/forms.py, as its neighbours have"


def test_the_shipped_file_names_every_key() -> None:
    shipped = tomllib.loads(DEFAULTS.read_text())
    secrets = {"slack.bot_token", "slack.app_token", "slack.signing_secret"}
    for key in KEYS.keys() - secrets:
        table, _, name = key.partition(".")
        if table != "servers":
            tables = shipped[table].values() if "*" in name else [shipped[table]]
            assert all(name.removeprefix("*.") in one for one in tables), key


VALUES = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.text(),
    st.datetimes(),
    st.dates(),
    st.lists(st.one_of(st.text(), st.integers(), st.lists(st.text()))),
    st.dictionaries(st.text(), st.one_of(st.text(), st.integers())),
    st.sampled_from(["", "0", "-1", "2G", "https://a.b", "A.B", "::1", "10.70.0.1/24", "#ops", "C0OPS", "xn--a"]),
)


def toml(value: object) -> str:
    """Return a value as TOML."""
    match value:
        case dict():
            return "{" + ", ".join(f"{toml(key)} = {toml(one)}" for key, one in value.items()) + "}"
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case bool():
            return str(value).lower()
        case datetime.date():
            return value.isoformat()
    return repr(value)


def refusal(file: Path | None = None, **environment: str) -> str:
    """Return why a load is refused, or "" when it is accepted; any other exception fails the test."""
    try:
        load(file, environment)
    except InvalidSettings as error:
        return str(error)
    return ""


@given(st.data())
def test_any_value_of_a_key_is_accepted_or_refused_by_name(data: st.DataObject) -> None:
    """In a file or in the environment, and never with a traceback."""
    key = data.draw(st.sampled_from(sorted(KEYS)))
    *tables, name = key.replace("*", data.draw(st.sampled_from(["new", "small", "approver", "x"]))).split(".")
    table = ".".join(tables)
    value = data.draw(VALUES)
    text = data.draw(st.sampled_from([f"[{table}]\n{name} = {toml(value)}", f"{table} = {toml(value)}"]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "own.toml"
        file.write_text(text)
        said = refusal(file)
        assert not said or tables[0] in said, said
        assert "\n" not in said, said
    words = data.draw(st.text(st.characters(exclude_characters="\0")))
    said = refusal(**{f"MAUTIC_OPS_{tables[0]}__{name}".upper(): words})
    assert not said or f"{tables[0]}.{name}" in said or f"[{tables[0]}]" in said, said


def policy(name: str, ask: str, approve: str, approvals: int, hours: int, step_up: str = "") -> str:
    """Return a policy as it is written in a file."""
    return (
        f"[policies.{name}]\nask = {json.dumps(ask.split())}\napprove = {json.dumps(approve.split())}\n"
        f'approvals = {approvals}\nhours = {hours}\nstep_up = "{step_up}"\n'
    )


def test_a_rollout_follows_the_policy_of_upgrades_and_a_stricter_one_of_its_own(tmp_path: Path) -> None:
    strict = policy("upgrade", "approver", "approver", 2, 5, "typed-name")
    found = cast(Settings, loaded(tmp_path, strict))
    assert found.policy("rollout") == found.policy("upgrade")
    own = policy("rollout", "operator approver", "approver", 3, 9)
    both = cast(Settings, loaded(tmp_path, strict + own)).policy("rollout")
    assert (both.ask, both.approvals, both.hours, both.step_up) == (["approver"], 3, 5, "typed-name")


def test_a_rollout_that_nobody_could_approve_is_refused_at_the_start(tmp_path: Path) -> None:
    apart = policy("upgrade", "operator", "approver", 1, 5) + policy("rollout", "operator", "operator", 1, 5)
    with pytest.raises(InvalidSettings, match="have no role in common"):
        loaded(tmp_path, apart)
