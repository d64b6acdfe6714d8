"""`/mautic patch`, and upgrades onto another base: the tenant's own data goes into a freshly cloned container."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.engine.placement import inside_of
from bot.guest import simulated_state as simulated_tenant
from bot.guest.blueprint.recipe import SUITES
from bot.guest.blueprint.simulated import put_blueprint
from bot.guest.own import Own
from bot.guest.simulated_own import OUTBOUND_OFF
from bot.lxd.protocol import Instance
from bot.model.labels import as_labels, label_of
from bot.model.plan import Refused
from bot.store import evidence
from schedules.offers import offers
from tests.support.bot import OPERATOR, Bench, add_newer_base, add_releases, containers, live, make_bench, notes

VERSION = "5.2.12+double"
DAY = 86_400


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a bench with a tenant of 5.2.12, and a blueprint of the same Mautic with newer packages."""
    made = make_bench(tmp_path, MAUTIC_OPS_PICTURES__CHROMIUM="/none")
    assert made.done("new client-x").state == "succeeded"
    add_newer_base(made)
    return made


def instance_of(bench: Bench, name: str = "client-x") -> Instance:
    return bench.lxd.instance(bench.context.fleet.tenant(name).instance)


def patched(bench: Bench) -> None:
    assert "Rehearsing" in bench.answer("patch client-x", OPERATOR).text
    bench.finish()
    ended = bench.done("patch client-x", OPERATOR)
    assert ended.state == "succeeded", ended.outcome


def test_a_patch_is_rehearsed_approved_and_leaves_the_tenant_on_newer_packages(bench: Bench) -> None:
    bench.lxd.update("client-x", as_labels(tags="gold", slot=17, note="ours"))
    simulated_tenant.change(bench.lxd, "client-x", contacts=77, plugins={"OwnBundle": True})
    before = bench.context.fleet.tenant("client-x")
    patched(bench)
    after = bench.context.fleet.tenant("client-x")
    assert after.instance.startswith("client-x--")
    assert after.base > before.base
    kept = ("name", "domain", "plan", "version", "tags", "slot", "note", "created", "disk", "double", "outbound_off")
    assert {name: getattr(after, name) for name in kept} == {name: getattr(before, name) for name in kept}
    state = simulated_tenant.read(bench.lxd, after.instance)
    assert (state.contacts, state.plugins, state.version) == (77, {"OwnBundle": True}, VERSION)
    assert live(bench)
    assert label_of(bench.lxd.instance("client-x").config, "role") == "former"
    assert label_of(bench.lxd.instance("client-x").config, "replaced-by") == "patch"
    assert containers(bench) == {"client-x", after.instance}


def test_the_bot_requests_a_patch_after_its_rehearsal(bench: Bench) -> None:
    bench.answer("patch client-x", OPERATOR)
    bench.finish()
    offers(bench.context)
    (asked,) = bench.context.operations.select("command = 'patch'")
    assert asked.state == "awaiting_approval"
    assert "Client offline" in asked.plan["facts"]
    assert "Debian packages" in asked.plan["facts"]
    bench.approve(asked)
    bench.finish()
    assert bench.context.operations.get(asked.id).state == "succeeded"


def test_outbound_mail_that_is_off_stays_off(bench: Bench) -> None:
    assert bench.done("mail client-x off", OPERATOR).state == "succeeded"
    patched(bench)
    tenant = bench.context.fleet.tenant("client-x")
    assert tenant.outbound_off
    assert bench.lxd.pull(tenant.instance, OUTBOUND_OFF) == b""


@pytest.mark.parametrize(
    ("plan", "memory", "pool"), [("gone", "24GiB", "12288M"), ("gone", "1GiB", "256M"), ("medium", "4GiB", "1536M")]
)
def test_mariadb_is_sized_by_the_memory_of_the_container_and_not_by_the_settings(
    bench: Bench, plan: str, memory: str, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.lxd.update("client-x", {**as_labels(plan=plan), "limits.memory": memory})
    adopted: list[str] = []
    adopt = Own.adopt

    def noted(own: Own, candidate: str, **given: Any) -> dict[str, Any]:
        adopted.append(given["size"].innodb_buffer_pool)
        return adopt(own, candidate, **given)

    monkeypatch.setattr(Own, "adopt", noted)
    patched(bench)
    assert adopted == [pool, pool], "in the rehearsal and in the patch"
    assert instance_of(bench).config["limits.memory"] == memory


def test_a_container_with_the_memory_of_its_plan_or_no_limit_gets_the_sizes_of_the_plan(bench: Bench) -> None:
    settings = bench.context.settings
    for memory in ("8GiB", "9GiB", "", "50%"):
        assert inside_of(settings, "medium", memory) == settings.plans["medium"]
    assert inside_of(settings, "gone", "") == settings.plans["small"]
    least = inside_of(settings, "gone", "1MiB")
    assert (least.innodb_buffer_pool, least.fpm_children, least.email_workers) == ("5M", 1, 1)


def test_a_failed_rehearsal_of_a_patch_says_where_it_failed_and_how_to_try_again(bench: Bench) -> None:
    simulated_tenant.change(bench.lxd, "client-x", breaks={"adopt": "it is broken"})
    bench.answer("patch client-x", OPERATOR)
    bench.finish()
    offers(bench.context)
    (rehearsal,) = bench.context.operations.select("command = 'rehearse'")
    said = notes(bench, rehearsal)[-1]
    assert said.startswith(":x: *The Debian update of `client-x` failed on a copy*, so it is not offered.")
    assert "*Step:* Start Mautic in the new container" in said
    assert "To try again: `/mautic rehearse client-x --base`" in said
    simulated_tenant.change(bench.lxd, "client-x", breaks={})
    assert bench.done("rehearse client-x --base", OPERATOR).state == "succeeded"


@pytest.mark.parametrize("step", ["send_own", "adopt", "migrate", "page"])
def test_after_any_failure_the_old_container_serves_again(bench: Bench, step: str) -> None:
    bench.answer("patch client-x", OPERATOR)
    bench.finish()
    asked = bench.approve(bench.ask("patch client-x", OPERATOR))
    simulated_tenant.change(bench.lxd, "client-x", breaks={step: "it is broken"})
    bench.finish()
    ended = bench.context.operations.get(asked.id)
    assert ended.state == "failed"
    assert "it is broken" in ended.outcome
    assert containers(bench) == {"client-x"}
    simulated_tenant.change(bench.lxd, "client-x", breaks={})
    assert live(bench)


def test_a_patch_is_rolled_back_to_the_container_from_before_it(bench: Bench) -> None:
    before = bench.context.fleet.tenant("client-x")
    patched(bench)
    asked = bench.ask("rollback client-x", OPERATOR)
    assert asked.plan["summary"] == "Roll tenant client-x back to its earlier Debian packages"
    bench.approve(asked)
    bench.finish()
    assert bench.context.operations.get(asked.id).state == "succeeded"
    said = notes(bench, asked)[-1]
    assert "`client-x` is back on its earlier Debian packages." in said
    assert "Mautic" not in said
    assert "since the patch" in asked.plan["remarks"]["Data loss"]
    after = bench.context.fleet.tenant("client-x")
    assert (after.base, after.suite, after.version) == (before.base, before.suite, VERSION)
    assert after.instance == f"client-x--{asked.id}"
    assert live(bench)


def test_a_base_that_is_less_than_a_day_old_is_not_patched(bench: Bench) -> None:
    patched(bench)
    with pytest.raises(Refused, match=r"newer ones are looked for after a day\. Try again after"):
        bench.ask("patch client-x", OPERATOR)


def test_a_failed_rehearsal_offers_no_patch_and_leaves_nothing(bench: Bench) -> None:
    simulated_tenant.change(bench.lxd, "client-x", breaks={"adopt": "mariadb-upgrade ended with 1"})
    bench.answer("patch client-x", OPERATOR)
    bench.finish()
    (ended,) = bench.context.operations.select("command = 'rehearse'")
    assert ended.state == "failed"
    assert containers(bench) == {"client-x"}
    found = evidence.newest(bench.context.database, "client-x", VERSION)
    assert found
    assert "mariadb-upgrade ended with 1" in found.failed
    offers(bench.context)
    assert bench.context.operations.select("command = 'patch'") == []


def test_a_blueprint_that_is_gone_voids_the_rehearsal(bench: Bench) -> None:
    bench.answer("patch client-x", OPERATOR)
    bench.finish()
    asked = bench.ask("patch client-x", OPERATOR)
    found = evidence.newest(bench.context.database, "client-x", VERSION)
    assert found
    bench.lxd.delete(found.blueprint)
    with pytest.raises(Refused, match="No rehearsal"):
        bench.approve(asked)


def test_the_card_says_what_happens_to_existing_snapshots(bench: Bench) -> None:
    assert bench.done("new client-y").state == "succeeded"
    bench.lxd.update("client-y", as_labels(base=5))
    assert bench.done("snapshot client-x --keep", OPERATOR).state == "succeeded"
    bench.answer("patch client-x,client-y", OPERATOR)
    bench.finish()
    told = bench.answer("patch client-x", OPERATOR).remarks["Existing snapshots"]
    assert told == "1 stays in the previous container (no automatic deletion: 1 protected)"
    asked = bench.lxd.calls["snapshots"]
    many = bench.answer("patch client-x,client-y", OPERATOR)
    assert many.facts["Existing snapshots"] == "stay in the previous container"
    assert bench.lxd.calls["snapshots"] == asked, "a batch does not count them"


def test_one_request_patches_many_tenants_ring_by_ring(bench: Bench) -> None:
    assert bench.done("new client-y").state == "succeeded"
    bench.lxd.update("client-y", as_labels(base=5, tags="canary"))
    assert "Rehearsing" in bench.answer("patch --all", OPERATOR).text
    bench.finish()
    offers(bench.context)
    (asked,) = bench.context.operations.select("command = 'patch'")
    assert asked.plan["facts"]["Rings"] == "1, then 1, 30 min apart"
    bench.approve(asked)
    bench.finish()
    assert bench.context.fleet.tenant("client-y").base > 5
    bench.clock.move(29 * 60)
    bench.finish()
    assert instance_of(bench).name == "client-x", "the pause after the canary is not over"
    bench.clock.move(2 * 60)
    bench.finish()
    assert instance_of(bench).name == f"client-x--{asked.id + 2}"
    offers(bench.context)
    said = bench.context.database.read("SELECT text FROM notes WHERE operation = ? ORDER BY id", asked.id)
    assert "2 of 2 tenants have newer packages now" in said[-1]["text"]


@pytest.mark.parametrize("who", ["client-x", "--all"])
def test_a_patch_can_be_scheduled(bench: Bench, who: str) -> None:
    assert "Rehearsing" in bench.answer(f"patch {who} --at tomorrow 03:00", OPERATOR).text
    bench.finish()
    offers(bench.context)
    (asked,) = bench.context.operations.select("command = 'patch' AND parent = 0")
    assert asked.plan["facts"]["Starts"]
    bench.approve(asked)
    bench.finish()
    assert instance_of(bench).name == "client-x", "it is not time yet"
    bench.clock.move(asked.plan["values"]["at"] - bench.clock() + 60)
    bench.finish()
    assert instance_of(bench).name != "client-x"


def test_an_upgrade_that_needs_another_php_gets_a_container_that_has_it(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_PICTURES__CHROMIUM="/none")
    add_releases(bench, "8.0.0")
    put_blueprint(bench.lxd, "7.2.2+double", created=2, name="blueprint--seven")
    assert bench.done("new client-x --version 7.2.2+double").state == "succeeded"
    assert "Rehearsing" in bench.answer("upgrade client-x", OPERATOR).text
    bench.finish()
    found = evidence.newest(bench.context.database, "client-x", "8.0.0+double")
    assert found
    assert found.passed, found
    assert (found.php[0].split(".")[:2], found.php[1].split(".")[:2]) == (["8", "2"], ["8", "4"])
    ended = bench.done("upgrade client-x", OPERATOR)
    assert ended.state == "succeeded", ended.outcome
    tenant = bench.context.fleet.tenant("client-x")
    assert (tenant.version, tenant.suite) == ("8.0.0+double", SUITES[1].name)
    assert simulated_tenant.read(bench.lxd, tenant.instance).version == "8.0.0+double"
    assert live(bench)


def test_an_upgrade_with_the_same_php_is_rehearsed_without_a_blueprint(bench: Bench) -> None:
    add_releases(bench, "6.0.10")
    bench.answer("upgrade client-x", OPERATOR)
    bench.finish()
    found = evidence.newest(bench.context.database, "client-x", "6.0.10+double")
    assert found
    assert (found.blueprint, found.passed) == ("", True)
    assert replace(found, before=found.version).patches
