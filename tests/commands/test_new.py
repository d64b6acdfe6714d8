"""`/mautic new`, over a simulated LXD."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bot.guest.blueprint.recipe import FURNITURE
from bot.lxd.protocol import NotFound
from bot.model.labels import as_labels, label_of
from bot.model.plan import Plan, Refused
from bot.slack.messages import Modal
from bot.store import recovery
from bot.workspace import block_kit
from tests.support.bot import LEAD, Bench, add_blueprint, make_bench, notes
from tests.support.simulated_lxd import SimulatedLxd


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


def test_an_approved_request_becomes_a_live_tenant(bench: Bench) -> None:
    operation = bench.done("new client-x --note 'spring campaign'")
    assert operation.state == "succeeded", operation.outcome
    tenant = bench.context.fleet.tenant("client-x")
    assert (tenant.domain, tenant.plan, tenant.note) == ("client-x.mautic.localhost", "small", "spring campaign")
    assert bench.context.edge.probe(tenant.domain).login
    assert notes(bench, operation)[-1].endswith("the first login is shown once, only to you, within 72 h.")


def test_a_first_login_that_does_not_expire_is_announced_without_a_time(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_RETENTION__CREDENTIALS_HOURS="0")
    assert notes(bench, bench.done("new client-x"))[-1].endswith("the first login is shown once, only to you.")


def test_the_plan_sets_limits_and_sizes(bench: Bench) -> None:
    bench.done("new client-x --plan medium --domain m.client.com")
    instance = bench.lxd.instance("client-x")
    assert instance.config["limits.cpu"] == "4"
    assert instance.config["limits.memory"] == "8GiB"
    assert instance.config["security.protection.delete"] == "true"
    assert instance.devices["root"]["size"] == "80GiB"
    asked = json.loads(bench.lxd.pull("client-x", "/var/lib/mautic-ops/identity.json"))
    assert (asked["domain"], asked["innodb_buffer_pool"], asked["fpm_children"]) == ("m.client.com", "3G", 16)


def test_nothing_is_created_before_the_approval(bench: Bench) -> None:
    bench.ask("new client-x")
    bench.finish()
    with pytest.raises(NotFound):
        bench.lxd.instance("client-x")


def test_a_name_or_domain_can_be_used_once(bench: Bench) -> None:
    bench.done("new client-x --domain m.client.com")
    with pytest.raises(Refused, match="already"):
        bench.ask("new client-x", LEAD)
    with pytest.raises(Refused, match=r"The domain `m\.client\.com` already belongs to `client-x`"):
        bench.ask("new client-y --domain m.client.com")
    bench.done("delete client-x", LEAD)
    with pytest.raises(Refused, match="unarchive client-x"):
        bench.ask("new client-x")


@pytest.mark.parametrize(
    ("domain", "why"),
    [
        ("www.mautic.localhost", r"`www\.mautic\.localhost` is reserved; .* to get `client-y\.mautic\.localhost`"),
        ("a.mail.mautic.localhost", r"`mail\.mautic\.localhost` is reserved"),
        ("xn--mller-kva.mautic.localhost", "is reserved"),
        ("mautic.localhost", "`mautic.localhost` is the agency's own domain"),
        ("Client-X.mautic.localhost", r"`client-x\.mautic\.localhost` belongs to tenant `client-x`"),
        ("shop.client-x.mautic.localhost", r"belongs to tenant `client-x`"),
    ],
)
def test_reserved_names_under_the_agencys_domain_are_refused(bench: Bench, domain: str, why: str) -> None:
    bench.done("new client-x --domain m.client.com")
    with pytest.raises(Refused, match=why):
        bench.ask(f"new client-y --domain {domain}")


@pytest.mark.parametrize("domain", ["client-y.mautic.localhost", "www.client-y.mautic.localhost", "mautic.client.com"])
def test_other_domains_are_allowed(bench: Bench, domain: str) -> None:
    assert bench.done(f"new client-y --domain {domain}").arguments["domain"] == domain


def test_the_card_says_if_the_files_of_the_blueprint_are_out_of_date(bench: Bench) -> None:
    """The bot is newer than its blueprint, so a new tenant is out of date from its first day."""
    assert "Files" not in bench.ask("new client-x").plan["remarks"]
    (blueprint,) = [one.name for one in bench.lxd.instances() if label_of(one.config, "role") == "blueprint"]
    bench.lxd.update(blueprint, as_labels(furniture=FURNITURE - 1))
    said = bench.ask("new client-y").plan["remarks"]["Files"]
    assert said == (
        f"version {FURNITURE - 1} of {FURNITURE}, as in the blueprint; afterwards `/mautic refurnish client-y` brings "
        "them up to date"
    )


def test_an_international_domain_is_shown_in_both_forms(bench: Bench) -> None:
    plan = bench.answer("new client-x --domain müller-shop.de")
    assert plan.remarks["Domain"] == "müller-shop.de, which is xn--mller-shop-9db.de in DNS"
    assert plan.facts["Address"] == "https://xn--mller-shop-9db.de"
    assert bench.done("new client-x --domain müller-shop.de").state == "succeeded"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--plan huge", "no plan “huge”; available: small, medium, large"),
        ("--host other", "no host “other”; available: `local`"),
        ("--version 9.9", "no blueprint of Mautic 9.9"),
        ("--note " + "x" * 201, "201 characters"),
    ],
)
def test_wrong_options_are_refused(bench: Bench, words: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        bench.answer(f"new client-x {words}")


def test_the_newest_or_the_named_blueprint_is_used(bench: Bench) -> None:
    add_blueprint(bench.lxd, "5.1.0")
    bench.lxd.update("blueprint--5-1-0", {"user.mautic-ops.created": "0"})
    for words, version in (("", "5.2.12+double"), (" --version 5.1.0", "5.1.0")):
        plan = bench.answer(f"new client-x{words}")
        assert isinstance(plan, Plan)
        assert plan.arguments["version"] == version


def test_a_host_with_an_older_recipe_of_the_version_gets_the_newest_blueprint(tmp_path: Path) -> None:
    far = SimulatedLxd()
    bench = make_bench(tmp_path, others={"far": far})
    name = "blueprint--5-2-12-double"
    add_blueprint(far)
    far.update(name, as_labels(recipe="r1", created=1))
    far.rename(name, f"{name}-r1")
    bench.lxd.update(name, as_labels(recipe="r2", created=2))
    copied: list[str] = []
    far.on_call = lambda method, words: copied.append(words[0]) if method == "copy" else None
    for tenant in ("client-x", "client-y"):
        operation = bench.done(f"new {tenant} --host far")
        assert operation.state == "succeeded", operation.outcome
    assert copied == [f"{name}/golden"] * 2
    assert {one.name for one in far.instances()} == {name, f"{name}-r1", "client-x", "client-y"}


def test_a_request_from_before_recipes_were_stored_uses_the_blueprint_that_exists(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    operation = bench.approve(bench.ask("new client-x"))
    bench.lxd.update("blueprint--5-2-12-double", as_labels(recipe="r2", archive="a"))
    assert bench.context.operations.get(operation.id).plan["inputs"]["blueprint"]["recipe"] == ""
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "succeeded"


def test_a_full_pool_of_a_named_host_is_refused_at_the_request_and_at_the_approval(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    assert "free" in bench.answer("new client-x --host local").remarks["Free space"]
    waiting = bench.ask("new client-x --host local")
    bench.lxd.world.pool_bytes = 500_000_000
    with pytest.raises(Refused, match="storage pool of `local` is full"):
        bench.answer("new client-y --host local")
    with pytest.raises(Refused, match=r"plan no longer matches .* storage pool of `local` is full"):
        bench.approve(waiting)


def test_a_pool_that_fills_up_meanwhile_leaves_no_tenant_half_made(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    operation = bench.approve(bench.ask("new client-x --host local"))

    def fault(moment: str) -> None:
        if moment == "recorded 2":
            bench.lxd.world.pool_bytes = 500_000_000
            raise KeyboardInterrupt

    bench.runner.fault = fault
    with pytest.raises(KeyboardInterrupt):
        bench.finish()
    recovery.recover(bench.context.operations)
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "succeeded"


def test_a_full_pool_is_refused_at_the_request(tmp_path: Path) -> None:
    lxd = SimulatedLxd(pool_bytes=500_000_000)
    add_blueprint(lxd)
    with pytest.raises(Refused, match="storage pool of `local` is full"):
        make_bench(tmp_path, lxd).answer("new client-x")


def test_without_a_blueprint_the_refusal_says_how_to_build_one(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="blueprint build"):
        make_bench(tmp_path, SimulatedLxd()).answer("new client-x")


def test_an_instance_of_somebody_else_is_never_touched(bench: Bench) -> None:
    bench.lxd.create("client-x", "base", config={"user.owner": "somebody"}, devices={})
    operation = bench.done("new client-x")
    assert operation.state == "failed"
    assert "did not create" in operation.outcome
    assert bench.lxd.instance("client-x").config["user.owner"] == "somebody"


def test_without_a_name_a_form_opens(bench: Bench) -> None:
    form = bench.answer("new")
    assert isinstance(form, Modal)
    block_kit.view(form.view, "modal")
    assert [block["block_id"] for block in form.view["blocks"]] == ["tenant", "domain", "plan", "note"]


def test_the_instance_has_the_number_of_its_operation_as_a_label(bench: Bench) -> None:
    operation = bench.done("new client-x")
    assert label_of(bench.lxd.instance("client-x").config, "operation") == str(operation.id)


def test_no_tenant_may_have_the_name_of_a_ballast(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    with pytest.raises(Refused, match="Names that begin with `ballast-` are reserved"):
        bench.ask("new ballast-local")
