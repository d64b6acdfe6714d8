"""Upgrades on real parts: approved on evidence, rolled back by the bot or by a person, and rolled out in rings."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest

from bot.lxd.gateway import LxdGateway
from tests.support.forms import make_form
from tests.support.lab_world import Client
from tests.support.pools import count_anew
from tests.support.real_lxd import need
from tests.support.upgrading import NEW, card_of, fault, sql, upgrade_card, upgrading, version_of
from tests.support.workspace import eventually
from tests.support.world import CHANNEL, LISTEN, World

OLD = "5.2.12"
LANDING = """
SET STATEMENT sql_mode = '' FOR INSERT INTO pages SET id = 5, is_published = 1, title = 'Spring', alias = 'spring',
  custom_html = '<h1>Spring</h1>';
"""
PEOPLE = """
SET time_zone = '+00:00';
INSERT INTO leads (id, date_added, date_identified, email) VALUES
  (700, UTC_TIMESTAMP(), UTC_TIMESTAMP(), 'leaves@example.com'),
  (701, UTC_TIMESTAMP(), UTC_TIMESTAMP(), 'erased@example.com'),
  (702, UTC_TIMESTAMP(), UTC_TIMESTAMP(), 'stays@example.com');
"""
A_DAY = """
SET time_zone = '+00:00';
INSERT INTO leads (id, date_added, date_identified, email)
  SELECT 900 + seq, UTC_TIMESTAMP(), UTC_TIMESTAMP(), CONCAT('new-', seq, '@example.com') FROM seq_1_to_40;
INSERT INTO lead_donotcontact (lead_id, date_added, reason, channel, comments) VALUES
  (700, UTC_TIMESTAMP(), 1, 'email', 'by a link'), (905, UTC_TIMESTAMP(), 1, 'email', 'by a link');
DELETE FROM leads WHERE id = 701;
INSERT INTO audit_log (user_id, user_name, bundle, object, object_id, action, details, date_added, ip_address)
  VALUES (1, 'a', 'lead', 'lead', 701, 'delete', 'a:1:{s:4:"name";s:18:"erased@example.com";}',
    UTC_TIMESTAMP(), '127.0.0.1');
"""
"""What comes in on one day: new contacts, two opt-outs (one of an earlier contact), and one erasure."""
SETTINGS = """
[rollouts]
share = 30
soak = 0
[plans.small]
disk = "2GiB"
"""
RINGS = [f"ring-{number:02}" for number in range(12)]


@pytest.fixture(scope="module")
def world(host: LxdGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A bot whose settings name another release of the double."""
    with upgrading(host, tmp_path_factory.mktemp("upgrading"), SETTINGS) as made:
        yield made


def gone(world: World, *tenants: str) -> None:
    """Delete tenants, and start the bot again."""
    world.remove(*tenants)
    world.bot.start()


def client(world: World, tenant: str, name: str) -> Client:
    domain = f"{tenant}.e2e.localhost"
    return Client(LISTEN, world.edge.authority(), domain, "/form/submit?formId=1", name=name)


def emails(world: World, instance: str) -> set[str]:
    return set(sql(world.lxd, instance, "SELECT email FROM leads WHERE email <> ''"))


def running(world: World, tenant: str) -> list[str]:
    return [one for one in world.instances_of(tenant) if world.lxd.instance(one).running]


def told_away(text: str) -> float:
    """Return the seconds for which clients were offline, according to the bot's message."""
    found = re.search(r"(?:Downtime|maintenance page for) ([\d.]+) (s|min)", text)
    assert found, text
    # Minutes are rounded in the message.
    return float(found[1]) if found[2] == "s" else 60 * float(found[1]) + 30


def test_a_tenant_is_upgraded_on_evidence_and_a_later_rollback_keeps_opt_outs_and_erasures(world: World) -> None:
    need("chromium")
    tenant = "up-x"
    try:
        world.done(f"new {tenant}", "is live")
        make_form(world.lxd, tenant)
        sql(world.lxd, tenant, LANDING + PEOPLE)
        rehearsal, card = upgrade_card(world, tenant)
        assert world.instances_of(tenant) == [tenant], "the copy of the rehearsal is deleted"
        pictures = {
            file["title"].partition(":")[0]
            for one in world.workspace.messages(CHANNEL, thread_ts=rehearsal)
            for file in one.get("files", ())
        }
        assert {"login", "form", "landing"} <= pictures, world.thread(rehearsal)
        assert "Client offline" in world.card(card)

        with client(world, tenant, "before") as visitor:
            eventually(lambda: len(visitor.acknowledged) > 10)
            world.approve(card)
            said = world.wait_for(card, f"now runs Mautic {NEW}")
            after = len(visitor.acknowledged)
            eventually(lambda: len(visitor.acknowledged) > after + 10)
        upgraded = world.present(tenant)
        assert version_of(world.lxd, upgraded).startswith(NEW)
        assert running(world, tenant) == [upgraded]
        assert set(visitor.acknowledged) - emails(world, upgraded) == set()
        away = max(visitor.gaps)
        print(f"away for {away:.2f} s; {world.thread(card)}")
        # The client's pause between submissions, and the time of a submission, come on top.
        assert away < told_away(said) + 2

        sql(world.lxd, upgraded, A_DAY)
        with client(world, tenant, "day") as later:
            eventually(lambda: len(later.acknowledged) > 10)
        back = world.ask(f"rollback {tenant}", "operator")
        shown = world.card(back)
        world.approve(back, f"approve {tenant}")
        world.wait_for(back, rf"is back on Mautic {OLD}")
        serves = world.present(tenant)
        assert version_of(world.lxd, serves).startswith(OLD)
        assert running(world, tenant) == [serves]
        assert world.edge.probe(f"{tenant}.e2e.localhost").login
        opted_out = "SELECT lead_id FROM lead_donotcontact WHERE channel = 'email' AND reason = 1"
        assert "700" in sql(world.lxd, serves, opted_out)
        left = emails(world, serves)
        assert "erased@example.com" not in left
        assert {"stays@example.com", "leaves@example.com"} <= left
        lost = len({*visitor.acknowledged, *later.acknowledged} - left)
        assert lost >= len(later.acknowledged)
        assert f"{lost + 40} contacts, {lost} form submissions" in shown, (lost, shown)
        assert set(sql(world.lxd, serves, opted_out)) == {
            "700",
            *sql(world.lxd, serves, "SELECT id FROM leads WHERE email = 'new-5@example.com'"),
        }
    finally:
        gone(world, tenant)


def test_an_upgrade_whose_migration_fails_or_fills_the_disk_is_rolled_back(world: World) -> None:
    tenant = "up-y"
    schema = "SELECT * FROM information_schema.columns WHERE table_schema = 'mautic'"
    try:
        world.done(f"new {tenant}", "is live")
        # If the kernel has stopped counting, the migration can fill the pool.
        count_anew(world.lxd)
        make_form(world.lxd, tenant)
        upgrade_card(world, tenant)
        before = sql(world.lxd, tenant, schema)
        for kind, words in (
            ("fail_migration", "injected failure, half way"),
            ("fill_migration", "The migrations failed"),
        ):
            card = card_of(world, f"Upgrade tenant {tenant}") if kind == "fail_migration" else again(world, tenant)
            fault(world.lxd, tenant, kind)
            with client(world, tenant, kind[:4]) as visitor:
                eventually(lambda seen=visitor: len(seen.acknowledged) > 10)  # type: ignore[misc]
                world.approve(card)
                said = world.wait_for(card, r"\* failed", 300)
                after = len(visitor.acknowledged)
                eventually(lambda seen=visitor, after=after: len(seen.acknowledged) > after + 10)  # type: ignore[misc]
            print(f"away for {max(visitor.gaps):.2f} s; {said}")
            assert "rolled back" in said
            assert words in said
            assert max(visitor.gaps) < told_away(said) + 2
            eventually(lambda: world.instances_of(tenant) == [tenant])
            assert version_of(world.lxd, tenant).startswith(OLD)
            assert sql(world.lxd, tenant, schema) == before
            assert set(visitor.acknowledged) - emails(world, tenant) == set()
            assert world.lxd.instance(tenant).config["boot.autostart"] == "true"
    finally:
        gone(world, tenant)


def again(world: World, tenant: str) -> str:
    """Request an upgrade that is already rehearsed, with nothing changed since; return the ts of its card."""
    return world.ask(f"upgrade {tenant} {NEW}", "operator")


@pytest.mark.long
def test_a_rollout_in_three_rings_pauses_at_a_failed_tenant_and_can_be_continued(world: World) -> None:
    sick = RINGS[3]
    try:
        world.done(f"new {','.join(RINGS)}", "all 12 done")
        for canary in RINGS[:2]:
            world.workspace.command("operator", CHANNEL, f"/mautic tag {canary} canary")
        eventually(lambda: len(tagged(world)) == 2)
        world.workspace.command("operator", CHANNEL, f"/mautic rollout {NEW} {','.join(RINGS)}")
        card = card_of(world, f"Upgrade to Mautic {NEW}", 300)
        assert "2, then 3, then 7" in world.card(card)
        fault(world.lxd, sick, "fail_migration")
        world.approve(card)
        eventually(lambda: "paused" in world.card(card), 120)
        eventually(lambda: not states(world) & {"queued", "running"}, 60)
        assert version_of(world.lxd, world.present(sick)).startswith(OLD)
        assert not any(upgraded(world, one) for one in RINGS[5:]), "the last ring has not begun"
        assert [line for line in world.thread(card) if f"`{sick}` — failed" in line]
        world.workspace.click("ops-lead", CHANNEL, card, "batch_go_on")
        eventually(lambda: not states(world) & {"waiting", "queued", "running"}, 240)
        assert [one for one in RINGS if not upgraded(world, one)] == [sick]
        assert all(world.edge.probe(f"{one}.e2e.localhost").login for one in RINGS)
        assert "11 of 12 done" in world.card(card)
        in_order(world)
    finally:
        gone(world, *RINGS)


def tagged(world: World) -> list[str]:
    return [one.name for one in world.lxd.instances() if "canary" in str(one.config.get("user.mautic-ops.tags"))]


def states(world: World) -> set[str]:
    """Return the states of the upgrades of the rollout."""
    return {row["state"] for row in world.bot.rows("SELECT state FROM operations WHERE command = 'upgrade' AND parent")}


def upgraded(world: World, tenant: str) -> bool:
    return version_of(world.lxd, world.present(tenant)).startswith(NEW)


def in_order(world: World) -> None:
    """Check that no ring began before the previous one had ended."""
    sql = (
        "SELECT ring, min(started) AS began, max(finished) AS ended FROM operations"
        " WHERE command = 'upgrade' AND parent GROUP BY ring ORDER BY ring"
    )
    rings = world.bot.rows(sql)
    assert len(rings) == 3
    assert all(before["ended"] <= after["began"] for before, after in itertools.pairwise(rings))
