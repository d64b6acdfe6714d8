"""The commands that change nothing in the fleet: what they answer, and whom they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bot.lxd.protocol import LxdError, LxdUnavailable
from bot.model.labels import as_labels
from bot.model.plan import Refused
from bot.slack.messages import Message
from bot.store import audit
from tests.support.bot import ASKER, LEAD, OPERATOR, Bench, make_bench
from tests.support.judge import judge, mrkdwn

PEOPLE = frozenset({ASKER.id, OPERATOR.id, LEAD.id})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = make_bench(tmp_path)
    assert made.done("new client-x --note '<!channel> spring'").state == "succeeded"
    return made


def said(message: Message) -> str:
    """Return all text of a message, after checking that Slack accepts it."""
    judge(message, PEOPLE)
    return "\n".join(mrkdwn(message.blocks))


def test_list_shows_tenants_and_filters_them(bench: Bench) -> None:
    bench.done("new other --domain m.client.com")
    bench.lxd.stop("other")
    everything = said(bench.answer("list"))
    assert "*2 tenants*, 1 offline, 1 healthy" in everything
    assert ":red_circle: *other* · offline: container stopped unexpectedly · https://m.client.com" in everything
    assert "*client-x*" not in said(bench.answer("list m.client"))
    assert "No tenant name or domain contains `zzz`" in said(bench.answer("list zzz"))
    assert said(bench.answer("list --archived")).startswith("No archived tenants.")


def test_list_distinguishes_suspended_tenants_from_open_ones(bench: Bench) -> None:
    bench.done("new client-y")
    bench.done("suspend client-x", OPERATOR)
    everything = said(bench.answer("list"))
    assert "*2 tenants*, 1 suspended, 1 healthy" in everything
    assert f":white_circle: *client-x* · suspended by <@{OPERATOR.id}> · " in everything
    assert ":large_green_circle: *client-y* · healthy · " in everything


def test_the_link_to_the_next_page_of_a_list_keeps_its_filters(bench: Bench) -> None:
    for role in ("tenant", "archived"):
        for number in range(60):
            name = f"{role}-{number}"
            config = as_labels(role=role, tenant=name, domain=f"{name}.example.com")
            bench.lxd.create(name, "base", config=config, devices={})
    assert "next: `/mautic list --page 2` · or search: `/mautic list &lt;part&gt;`" in said(bench.answer("list"))
    assert "next: `/mautic list --archived --page 3`" in said(bench.answer("list --archived --page 2"))
    assert "first: `/mautic list tenant- --page 1`" in said(bench.answer("list tenant- --page 3"))
    assert "next: `/mautic list ved- --archived --page 2`" in said(bench.answer("list ved- --archived"))


def test_list_needs_one_request_however_many_tenants_there_are(bench: Bench) -> None:
    for number in range(200):
        config = as_labels(role="tenant", tenant=f"t{number}", domain=f"t{number}.mautic.localhost")
        bench.lxd.create(f"t{number}", "base", config=config, devices={})
    bench.lxd.calls.clear()
    shown = said(bench.answer("list --page 2"))
    assert dict(bench.lxd.calls) == {"instances": 1}
    assert "Page 2 of 9" in shown
    with pytest.raises(Refused, match="Only 9 pages"):
        bench.answer("list --page 10")


def test_a_page_of_the_list_is_complete_with_the_longest_names_and_notes(bench: Bench) -> None:
    for number in range(60):
        name = f"{'client' * 6}-{number}"
        facts = {"tenant": name, "domain": f"{name}.{'sub' * 20}.example.com", "note": "promised to the board " * 20}
        bench.lxd.create(f"t{number}", "base", config=as_labels(role="tenant", **facts), devices={})
    assert "Page 1 of 3" in said(bench.answer("list"))


def test_status_shows_the_checks_of_one_tenant(bench: Bench) -> None:
    shown = said(bench.answer("status client-x"))
    assert ":white_check_mark: *Public page:*" in shown
    assert "&lt;!channel&gt; spring" in shown
    assert ":white_check_mark: *Memory:* 2% used" in shown, "as measured inside"
    assert ":white_check_mark: *Disk:* 0% used" in shown
    bench.lxd.stop("client-x")
    assert ":red_circle:" in said(bench.answer("status client-x"))
    with pytest.raises(Refused, match="Did you mean `client-x`"):
        bench.answer("status client-y")


def test_status_that_cannot_look_inside_does_not_call_the_tenant_healthy(bench: Bench) -> None:
    bench.lxd.fail_next("execute", LxdUnavailable("LXD does not answer."))
    shown = said(bench.answer("status client-x"))
    assert ":x: LXD does not answer." in shown
    assert ":large_orange_circle:" in shown


def test_status_reports_no_problem_of_a_suspended_tenant(bench: Bench) -> None:
    assert bench.done("suspend client-x", OPERATOR).state == "succeeded"
    shown = said(bench.answer("status client-x"))
    assert ":white_circle:" in shown
    assert f"*suspended by <@{OPERATOR.id}>* · on local" in shown
    assert ":x:" not in shown


def test_history_shows_the_requester_the_approver_and_the_outcome(bench: Bench) -> None:
    shown = said(bench.answer("history client-x"))
    assert f"*done* · requested by <@{ASKER.id}> · approved by <@{LEAD.id}>" in shown
    with pytest.raises(Refused, match="no tenant `client-y`"):
        bench.answer("history client-y")


def test_audit_is_for_operators_and_approvers(bench: Bench) -> None:
    with pytest.raises(Refused, match="Ask an operator or an approver"):
        bench.answer("audit", ASKER)
    assert "operation.succeeded" in said(bench.answer("audit", OPERATOR))


def test_audit_verify_finds_a_head_that_it_gave_before(bench: Bench) -> None:
    shown = said(bench.answer("audit verify", LEAD))
    assert "Audit log intact" in shown
    head = shown.split("Head of the hash chain: `")[1].split("`")[0]
    bench.done("new client-y")
    assert "Audit log intact" in said(bench.answer(f"audit verify --head {head}", LEAD))
    assert "Audit log altered" in said(bench.answer("audit verify --head 0123456789abcdef", LEAD))


def test_audit_export_writes_a_file_on_the_bots_machine_and_an_audit_row(bench: Bench, tmp_path: Path) -> None:
    said(bench.answer("audit export", LEAD))
    (file,) = tmp_path.glob("audit-*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    assert "audit.exported" in said(bench.answer("audit", LEAD))


def test_doctor_names_problems(bench: Bench) -> None:
    assert ":x: *Servers:*" not in said(bench.answer("doctor"))
    bench.lxd.fail_next("server", LxdUnavailable("LXD does not answer."))
    with bench.context.database.transaction() as transaction:
        transaction.execute("DROP TRIGGER audit_is_append_only_update")
        transaction.execute("UPDATE audit SET actor = 'U0FORGED' WHERE seq = 2")
    shown = said(bench.answer("doctor"))
    assert ":x: *Servers:* LXD does not answer." in shown
    assert ":x: *Audit log:* entry 2 was changed" in shown


def test_help_comes_from_the_commands_themselves(bench: Bench) -> None:
    shown = said(bench.answer("help"))
    for command in bench.context.registry.commands.values():
        assert f"`/mautic {command.name}" in shown
    assert (
        "Changes need approval, except `rehearse`, `restart` of one tenant, `resume`, `snapshot` of one tenant, "
        in shown
    )
    assert "Needs 1 approval from an approver other than you" in said(bench.answer("help new"))
    of_many = "One tenant needs no approval. Several tenants in one request need 1 approval from an approver"
    assert of_many in said(bench.answer("help snapshot"))
    assert "Who can request: operators or approvers. No approval needed." in said(bench.answer("help start"))
    with pytest.raises(Refused, match="Did you mean `/mautic delete`"):
        bench.answer("help delte")


def test_requests_are_approved_denied_and_cancelled_by_their_numbers(bench: Bench) -> None:
    first, second, third = (bench.ask(f"new client-{name}") for name in "abc")
    assert "approved request" in said(bench.answer(f"approve {first.id}", LEAD))
    assert "denied request" in said(bench.answer(f"deny {second.id} because it is late", LEAD))
    assert "cancelled request" in said(bench.answer(f"cancel {third.id}", ASKER))
    states = [bench.context.operations.get(one.id).state for one in (first, second, third)]
    assert states == ["queued", "denied", "cancelled"]
    assert bench.context.operations.get(second.id).decisions[0].reason == "it is late"


def test_a_dangerous_approval_needs_the_name_after_the_number(bench: Bench) -> None:
    operation = bench.ask("delete client-x", OPERATOR)
    with pytest.raises(Refused, match=f"/mautic approve {operation.id} client-x"):
        bench.answer(f"approve {operation.id}", LEAD)
    bench.answer(f"approve {operation.id} client-x", LEAD)
    assert bench.context.operations.get(operation.id).state == "queued"


def test_credentials_are_only_for_the_requester(bench: Bench) -> None:
    with pytest.raises(Refused, match=f"Only <@{ASKER.id}>"):
        bench.answer("credentials client-x", LEAD)
    with pytest.raises(Refused, match="There is no tenant `client-y`"):
        bench.answer("credentials client-y", ASKER)
    bench.done("new client-y", LEAD)
    with bench.context.vault.reveal("client-y", LEAD.id):
        pass
    with pytest.raises(Refused, match="No first login of `client-y` is available: it was collected, has expired"):
        bench.answer("credentials client-y", ASKER)
    bench.lxd.fail_next("instances", LxdUnavailable("LXD does not answer."))
    with pytest.raises(Refused, match="No first login of `client-z` is available"):
        bench.answer("credentials client-z", ASKER)


def test_every_query_says_so_when_lxd_is_down(bench: Bench) -> None:
    bench.lxd.fail_next("instances", LxdUnavailable("LXD does not answer."))
    assert "Tenants on local are not shown: LXD does not answer." in said(bench.answer("list"))
    bench.lxd.fail_next("instances", LxdUnavailable("LXD does not answer."))
    with pytest.raises(LxdUnavailable, match="LXD does not answer"):
        bench.answer("status client-x")
    for call in ("instances", "server", "members"):
        bench.lxd.fail_next(call, LxdUnavailable("LXD does not answer."))
        assert ":red_circle: *local* · LXD does not answer." in said(bench.answer("hosts"))


def test_hosts_shows_each_member_even_if_the_pool_of_one_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make_bench(tmp_path, members=("node1", "node2"))
    cluster.lxd.fail_next("pool", LxdError("Its pool is not mounted."))
    shown = said(cluster.answer("hosts"))
    assert ":red_circle: *node1* · cluster local · LXD simulated · 0 tenants · Its pool is not mounted." in shown
    assert ":large_green_circle: *node2*" in shown


@pytest.mark.parametrize("option", ["--list-id=5", "--list-id 5"])
def test_console_takes_the_options_of_mautics_commands(bench: Bench, option: str) -> None:
    assert "--list-id=5" in said(bench.answer(f"console client-x mautic:segments:update {option}", OPERATOR))


def test_console_runs_allowed_commands_for_operators_and_approvers_only(bench: Bench) -> None:
    assert "finished (exit code 0)" in said(bench.answer("console client-x cache:clear", OPERATOR))
    with pytest.raises(Refused, match="Ask an operator or an approver"):
        bench.answer("console client-x cache:clear", ASKER)
    with pytest.raises(Refused):
        bench.answer("console client-x mautic:install", OPERATOR)
    row = audit.recent(bench.context.database, limit=1)[0]
    assert (row["event"], row["actor"], json.loads(row["detail"])["words"]) == (
        "console.run",
        OPERATOR.id,
        "cache:clear",
    )


def test_hosts_shows_a_healthy_host_with_its_tenants(bench: Bench) -> None:
    assert ":large_green_circle: *local* · LXD simulated · 1 tenant · " in said(bench.answer("hosts"))
