"""Checks of settings that only a try can judge: each finds its problem and says what helps."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot import checks
from bot.engine.context import Context
from bot.lxd.protocol import LxdError
from bot.model.plan import Refused
from bot.settings import OPEN_TABLES, ReleaseSettings, Role, ServerSettings
from tests.support.bot import LEAD, LEAD_2, OPERATOR, make_bench


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS").context


def having(context: Context, **tables: Any) -> Context:
    """Return the bot with other settings: the changes of a table as a dict, or an open table as a whole."""
    settings = context.settings
    for name, changes in tables.items():
        whole = name in OPEN_TABLES
        settings = replace(settings, **{name: changes if whole else replace(getattr(settings, name), **changes)})
    context.people.settings = settings
    context.people.forget()
    return replace(context, settings=settings)


def test_all_checks_of_a_healthy_bot_pass(context: Context) -> None:
    for name, check in checks.CHECKS.items():
        assert check(context), name
    assert checks.warnings(context, within=30) == []


def test_a_state_folder_that_cannot_be_written_is_found(context: Context) -> None:
    with pytest.raises(Refused, match=r"`bot.state`, /nowhere, can't be written: No such file"):
        checks.state(having(context, bot={"state": "/nowhere"}))


def test_a_domain_that_does_not_resolve_is_found(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unknown(name: str, *_: Any, **__: Any) -> Any:
        asked.append(name)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(Refused, match=r"`doctor.m.agency.com` does not resolve.* In DNS, point `\*\.m\.agency\.com`"):
        checks.domain(having(context, bot={"base_domain": "m.agency.com"}))
    assert asked == ["doctor.m.agency.com"]


def test_a_silent_dns_server_does_not_block_the_check(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(30) and [])
    monkeypatch.setattr(checks, "ANSWER", 0.01)
    with pytest.raises(Refused, match=r"does not resolve"):
        checks.domain(having(context, bot={"base_domain": "m.agency.com"}))
    over.set()


def test_the_check_names_the_address_that_a_domain_resolves_to(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("203.0.113.7", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: there)
    ours = having(context, bot={"base_domain": "m.agency.com"})
    assert checks.domain(ours) == "`*.m.agency.com` resolves to 203.0.113.7, and `edge.listen` is 127.0.0.1"
    ours = having(ours, edge={"listen": "203.0.113.7"})
    assert checks.domain(ours) == "`*.m.agency.com` resolves to 203.0.113.7"


def test_public_certificates_for_a_local_name_are_found(context: Context) -> None:
    with pytest.raises(Refused, match=r"nobody issues public certificates for `mautic.localhost`"):
        checks.domain(having(context, edge={"tls": "automatic"}))


def test_an_address_of_another_machine_is_found(context: Context) -> None:
    here = having(context, lxd={"endpoint": "/var/lib/lxd/unix.socket"})
    assert checks.listen(here) == "127.0.0.1 is an address of this machine"
    with pytest.raises(Refused, match=r"`edge.listen` is 192\.0\.2\.1, which is no address of this machine"):
        checks.listen(having(here, edge={"listen": "192.0.2.1"}))
    far = having(here, lxd={"endpoint": "https://lxd.example:8443"}, edge={"listen": "192.0.2.1"})
    assert "is not checked" in checks.listen(far)


def pair(folder: Path, name: str, days: int = 400) -> tuple[str, str]:
    """Create a certificate and its key; return their paths."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    words = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days {days} -subj /CN={name}".split()
    subprocess.run(["openssl", *words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return str(certificate), str(key)


def test_certificates_are_readable_and_match_their_keys(context: Context, tmp_path: Path) -> None:
    (certificate, key), (other, _) = pair(tmp_path, "bot"), pair(tmp_path, "other")
    far = "https://lxd.example:8443"
    lxd = {"endpoint": far, "certificate": certificate, "key": key, "server_certificate": other}
    assert checks.certificates(context) == "none needed"
    assert checks.certificates(having(context, lxd=lxd)).startswith("`lxd` until 20")
    for changes, why in (
        ({"certificate": "", "key": ""}, "`lxd.certificate` is not set. Without one"),
        ({"certificate": "/none.crt"}, r"`lxd.certificate`, /none.crt, can't be read: No such file"),
        ({"certificate": key}, "is not a PEM certificate"),
        ({"certificate": other}, "does not match"),
        ({"key": "/none.key"}, r"`lxd.key`, /none.key, can't be read"),
        ({"server_certificate": "/none.crt"}, r"`lxd.server_certificate`, /none.crt, can't be read"),
    ):
        with pytest.raises(Refused, match=why):
            checks.certificates(having(context, lxd=lxd | changes))
    with pytest.raises(Refused, match=r"`servers.far.certificate` is not set"):
        checks.certificates(having(context, servers={"far": ServerSettings(far)}))


def test_a_certificate_that_expires_soon_is_found(context: Context, tmp_path: Path) -> None:
    certificate, key = pair(tmp_path, "bot", days=9)
    lxd = {"endpoint": "https://lxd.example:8443", "certificate": certificate, "key": key}
    with pytest.raises(Refused, match=r"expires on .* Renew the certificate"):
        checks.certificates(having(context, lxd=lxd))


def test_an_archive_exists_and_matches_its_sha256(context: Context, tmp_path: Path) -> None:
    file = tmp_path / "mautic.zip"
    file.write_bytes(b"Mautic")
    named = {"archive": str(file), "sha256": hashlib.sha256(b"Mautic").hexdigest()}
    assert checks.archive(having(context, blueprint=named)) == f"{file} matches its sha256"
    with pytest.raises(Refused, match=r"does not match `blueprint.sha256`: its checksum is"):
        checks.archive(having(context, blueprint=named | {"sha256": "0" * 64}))
    with pytest.raises(Refused, match=r"can't be read: No such file"):
        checks.archive(having(context, blueprint=named | {"archive": "/none.zip"}))
    fetched = having(context, blueprint=named | {"archive": "https://mautic.example/5.zip"})
    assert "downloaded when" in checks.archive(fetched)


def test_each_release_of_the_settings_is_checked(context: Context, tmp_path: Path) -> None:
    file = tmp_path / "mautic.zip"
    file.write_bytes(b"Mautic")
    good = ReleaseSettings(str(file), hashlib.sha256(b"Mautic").hexdigest())
    assert checks.archive(having(context, releases={"6.0.10": good})) == f"{file} matches its sha256"
    bad = replace(good, sha256="0" * 64)
    with pytest.raises(Refused, match=r'does not match `releases."7.2.2".sha256`: its checksum is'):
        checks.archive(having(context, releases={"6.0.10": good, "7.2.2": bad}))


def test_a_missing_scope_of_the_app_is_found(context: Context) -> None:
    context.people.scopes = frozenset(checks.SCOPES) - {"usergroups:read"}
    with pytest.raises(
        Refused, match=r"The Slack app lacks `usergroups:read`: replace its manifest with `docs/slack-manifest.json`"
    ):
        checks.app(context)
    context.people.scopes = frozenset(checks.SCOPES) | {"more"}
    assert checks.app(context) == "has all scopes"


def test_a_missing_channel_is_found_with_its_consequence(context: Context) -> None:
    with pytest.raises(Refused, match=r"`slack.channel` is not set, so no digest"):
        checks.channel(having(context, slack={"channel": ""}))


def having_approver(context: Context, **approver: Any) -> Context:
    known = dict(context.settings.roles)
    return having(context, roles=known | {"approver": replace(Role([], [], False), **approver)})


def test_a_lack_of_approvers_is_found(context: Context) -> None:
    assert checks.approvers(context) == "every request can be approved by somebody else"
    assert checks.approvers(having_approver(context, everyone=True))
    with pytest.raises(Refused) as refused:
        checks.approvers(having_approver(context, groups=["mautic-aprovers"]))
    guarded = [name for name, policy in context.settings.policies.items() if policy.approvals]
    assert str(refused.value) == (
        f"{', '.join(f'`{name}`' for name in guarded)} need 1 approval, but nobody can approve (I can't read "
        "the user group `@mautic-aprovers`: Slack has no user group with this name). Add people to `roles.approver` in "
        "the bot's settings, or to the Slack user groups named there."
    )
    with pytest.raises(Refused, match=f"only <@{LEAD.id}> can approve, and nobody approves their own request"):
        checks.approvers(having_approver(context, users=[LEAD.id]))
    assert checks.approvers(having_approver(context, users=[LEAD.id, LEAD_2.id]))


def test_a_role_that_nobody_has_is_found(context: Context) -> None:
    assert checks.roles(context) == "each has members: `operator`, `approver`, `requester`"
    slack: Any = context.post.client
    del slack.groups["mautic-operators"]
    context.people.forget()
    with pytest.raises(
        Refused, match=r"^Nobody has the role `operator`: I can't read the user group `@mautic-operators`"
    ):
        checks.roles(context)
    slack.fail("usergroups.list", "ratelimited")
    context.people.forget()
    with pytest.raises(Refused, match="Slack does not say who has which role"):
        checks.roles(context)


def test_policies_with_two_approvals_need_three_people(context: Context) -> None:
    policies = dict(context.settings.policies)
    two = having(context, policies=policies | {"delete": replace(policies["delete"], approvals=2)})
    with pytest.raises(Refused, match=r"`delete` needs 2 approvals, but only <@U0OPSLEAD> and <@U0OPSLEAD2> can"):
        checks.approvers(two)
    assert checks.approvers(having_approver(two, users=[LEAD.id, LEAD_2.id, OPERATOR.id]))
    with pytest.raises(Refused, match=r"`delete` needs 2 approvals, but only <@U0OPSLEAD> can approve"):
        checks.approvers(having_approver(two, users=[LEAD.id]))


def test_a_failing_slack_is_reported(context: Context) -> None:
    slack: Any = context.post.client
    slack.fail("usergroups.list", "ratelimited")
    with pytest.raises(Refused, match=r"Slack does not say who can approve"):
        checks.approvers(context)


def test_a_check_that_hangs_is_left_out_of_the_warnings(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def fails(_: Context) -> str:
        raise LxdError("It fails.")

    def hangs(_: Context) -> str:
        over.wait(30)
        return ""

    monkeypatch.setattr(checks, "CHECKS", {"fails": fails, "hangs": hangs, "is well": lambda _: "well"})
    assert checks.warnings(context, within=0.2) == ["It fails."]
    over.set()


def test_a_failing_slack_is_only_a_warning_at_the_start(context: Context) -> None:
    ours = having_approver(context, users=[LEAD.id, LEAD_2.id])
    slack: Any = context.post.client
    slack.fail("usergroups.list", "internal_error", times=50)
    ours.people.forget()
    assert any("Slack does not say who can approve" in one for one in checks.warnings(ours, within=30))
