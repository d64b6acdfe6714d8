"""`/mautic delete` archives a tenant, and `/mautic unarchive` brings it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.lxd.protocol import LxdError
from bot.model.labels import label_of
from bot.model.plan import Refused
from bot.store import recovery
from tests.support.bot import LEAD, OPERATOR, Bench, containers, live, make_bench, notes


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = make_bench(tmp_path)
    assert made.done("new client-x").state == "succeeded"
    return made


def test_a_deleted_tenant_is_kept_as_an_archive(bench: Bench) -> None:
    assert bench.done("delete client-x", OPERATOR).state == "succeeded"
    archive = bench.lxd.instance("client-x--archived")
    assert (archive.status, label_of(archive.config, "role")) == ("Stopped", "archived")
    assert int(label_of(archive.config, "archived")) == int(bench.clock())
    assert archive.config["boot.autostart"] == "false"
    assert archive.config["security.protection.delete"] == "true"
    assert not live(bench)
    assert bench.context.fleet.tenants() == []


def test_an_archived_tenant_comes_back_as_it_was(bench: Bench) -> None:
    bench.done("delete client-x", OPERATOR)
    assert bench.done("unarchive client-x", OPERATOR).state == "succeeded"
    assert containers(bench) == {"client-x"}
    assert live(bench)
    assert bench.context.fleet.tenant("client-x").archived == 0
    assert bench.done("delete client-x", OPERATOR).state == "succeeded"


def test_a_suspended_tenant_comes_back_suspended(bench: Bench) -> None:
    bench.done("suspend client-x", OPERATOR)
    bench.done("delete client-x", OPERATOR)
    assert bench.done("unarchive client-x", OPERATOR).state == "succeeded"
    assert not live(bench)
    assert bench.done("resume client-x", OPERATOR).state == "succeeded"
    assert live(bench)


def test_an_unknown_tenant_or_archive_is_refused(bench: Bench) -> None:
    with pytest.raises(Refused, match=r"no tenant `client-y`\. Did you mean `client-x`\?"):
        bench.answer("delete client-y", OPERATOR)
    with pytest.raises(Refused, match="no archive of `client-y`"):
        bench.answer("unarchive client-y", OPERATOR)
    with pytest.raises(Refused, match="is not archived"):
        bench.answer("unarchive client-x", OPERATOR)


def test_a_tenant_whose_domain_now_belongs_to_another_is_not_unarchived(bench: Bench) -> None:
    bench.done("delete client-x", OPERATOR)
    bench.lxd.update("client-x--archived", {"user.mautic-ops.domain": "m.client.com"})
    bench.lxd.fail_next("start", OSError())
    bench.done("new client-y")
    bench.done("new client-z")
    bench.lxd.update("client-z", {"user.mautic-ops.domain": "m.client.com"})
    with pytest.raises(Refused, match="of `client-x` now belongs to `client-z`"):
        bench.answer("unarchive client-x", OPERATOR)


def test_a_stopped_tenant_comes_back_stopped(bench: Bench) -> None:
    bench.done("stop client-x", OPERATOR)
    bench.done("delete client-x", OPERATOR)
    back = bench.done("unarchive client-x", OPERATOR)
    assert [step.note for step in back.steps] == ["", "stays stopped, as before the delete", "", "still stopped"]
    said = notes(bench, back)[-1]
    assert "and stopped as before. To start it: `/mautic start client-x`" in said
    assert "https://" not in said
    assert "Mail:" not in said
    tenant = bench.context.fleet.tenant("client-x")
    assert (tenant.status, tenant.stopped) == ("Stopped", True)
    assert bench.done("start client-x", OPERATOR).state == "succeeded"
    assert live(bench)


@pytest.mark.parametrize("on_purpose", [True, False])
def test_a_stopped_tenant_whose_deletion_fails_stays_as_it_was(bench: Bench, on_purpose: bool) -> None:
    if on_purpose:
        bench.done("stop client-x", OPERATOR)
    bench.lxd.stop("client-x")
    bench.lxd.fail_next("rename", OSError("broken"))
    assert bench.done("delete client-x", OPERATOR).state == "failed"
    instance = bench.lxd.instance("client-x")
    assert (instance.running, label_of(instance.config, "role")) == (False, "tenant")
    assert bench.context.fleet.tenant("client-x").stopped == on_purpose


@pytest.mark.parametrize("text", ["purge client-x", "unarchive client-x"])
def test_an_approval_for_one_archive_does_not_cover_the_next(bench: Bench, text: str) -> None:
    bench.done("delete client-x", OPERATOR)
    bench.lxd.fail_next("stop" if text.startswith("purge") else "start", LxdError("LXD could not."))
    failed = bench.done(text, OPERATOR)
    assert failed.state == "failed"
    bench.done("unarchive client-x", OPERATOR)
    assert bench.done("delete client-x", OPERATOR).state == "succeeded"
    recovery.retry(bench.context.operations, failed, OPERATOR.id)
    bench.finish()
    again = bench.context.operations.get(failed.id)
    assert (again.state, "request #5 came later" in again.outcome) == ("failed", True), again.outcome
    assert containers(bench) == {"client-x--archived"}


def test_an_approval_to_delete_a_tenant_does_not_cover_a_later_one_of_its_name(bench: Bench) -> None:
    bench.lxd.fail_next("rename", LxdError("LXD could not."))
    failed = bench.done("delete client-x", OPERATOR)
    for text in ("delete client-x", "purge client-x", "new client-x"):
        assert bench.done(text, OPERATOR).state == "succeeded"
    recovery.retry(bench.context.operations, failed, OPERATOR.id)
    bench.finish()
    again = bench.context.operations.get(failed.id)
    assert (again.state, "request #5 came later" in again.outcome) == ("failed", True), again.outcome
    assert live(bench)


@pytest.mark.parametrize("text", ["delete client-x", "unarchive client-x"])
def test_an_instance_of_somebody_else_with_that_name_is_left_alone(bench: Bench, text: str) -> None:
    if text.startswith("unarchive"):
        bench.done("delete client-x", OPERATOR)
    stranger = "client-x--archived" if text.startswith("delete") else "client-x"
    bench.lxd.create(stranger, "base", config={}, devices={})
    before = bench.lxd.instance(stranger)
    ended = bench.done(text, OPERATOR)
    assert (ended.state, "that name is already taken" in ended.outcome) == ("failed", True), ended.outcome
    assert bench.lxd.instance(stranger) == before
    assert live(bench) == text.startswith("delete")


def test_the_plan_says_what_happens_and_how_to_undo_it(bench: Bench) -> None:
    plan = bench.answer("delete client-x", LEAD)
    assert plan.facts["Visitors see"] == "a maintenance page"
    assert plan.facts["Data"] == "archived for 30 days, then deleted"
    assert "unarchive" in plan.reversible
