"""How old tenants' Debian packages are, and which security updates they lack, as the stored blueprints tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.fleet import bases
from bot.guest import simulated_state as simulated_tenant
from bot.guest.blueprint.base import SECURITY_FILE
from bot.guest.blueprint.build import PACKAGES
from bot.guest.blueprint.simulated import put_blueprint
from bot.model.debian import is_older, lacking
from bot.model.labels import as_labels
from bot.reports.digest import gather
from tests.support.bot import Bench, make_bench
from tests.support.judge import mrkdwn

VERSION = "5.2.12+double"
OLD, NEW = 1_700_000_000, 1_750_000_000


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.0~rc1", "1.0"),
        ("1.0", "1.0-1"),
        ("1.0", "1:0.9"),
        ("8.2.28-1~deb12u1", "8.2.29-1~deb12u1"),
        ("2.36-9+deb12u9", "2.36-9+deb12u10"),
        ("1.0", "1.0a"),
        ("1.0a", "1.0+b"),
        ("1.9", "1.10"),
        ("10.11.11-0+deb12u1", "10.11.14-0+deb12u2"),
    ],
)
def test_versions_are_ordered_as_dpkg_orders_them(one: str, other: str) -> None:
    assert (is_older(one, other), is_older(other, one), is_older(one, one)) == (True, False, False)


def test_a_package_that_is_not_installed_is_not_lacking() -> None:
    assert lacking({"a": "1", "b": "2"}, {"a": "2", "b": "2", "c": "9"}) == ["a"]


def made(bench: Bench, at: int, openssl: str, known: str) -> str:
    """Put a blueprint with a version of openssl, built when the security archive had the version `known`."""
    name = put_blueprint(bench.lxd, VERSION, created=at, name=f"blueprint--of-{at}")
    bench.lxd.push(name, PACKAGES, f"Package: openssl\nStatus: install ok installed\nVersion: {openssl}\n\n".encode())
    bench.lxd.push(name, f"/{SECURITY_FILE}", f"openssl {known}\n".encode())
    return name


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A tenant whose base lacks an update that a newer blueprint has."""
    bench = make_bench(tmp_path)
    made(bench, OLD, "3.0.15", "3.0.15")
    assert bench.done("new client-x").state == "succeeded"
    assert bench.context.fleet.tenant("client-x").base == OLD
    made(bench, NEW, "3.0.17", "3.0.17")
    return bench


def test_a_tenant_lacks_the_updates_that_the_newest_base_knew(bench: Bench) -> None:
    settings, tenant = bench.context.settings, bench.context.fleet.tenant("client-x")
    assert bases.stands(settings, [tenant])["client-x"].lacks is None, "nothing is stored yet"
    bases.keep(bench.context.fleet, settings)
    found = bases.stands(settings, [tenant])["client-x"]
    assert (found.at, found.lacks, found.newest) == (OLD, ("openssl",), NEW)
    # What is stored outlives the blueprint.
    bench.lxd.delete(f"blueprint--of-{OLD}")
    bases.keep(bench.context.fleet, settings)
    assert bases.stands(settings, [tenant])["client-x"] == found


def test_a_tenant_with_an_unknown_base_does_not_count_as_up_to_date(bench: Bench) -> None:
    bases.keep(bench.context.fleet, bench.context.settings)
    bench.lxd.update("client-x", as_labels(base=""))
    tenant = bench.context.fleet.tenant("client-x")
    found = bases.stands(bench.context.settings, [tenant])["client-x"]
    assert (found.at, found.lacks) == (0, None)


def test_status_says_how_old_the_packages_are_and_what_is_missing(bench: Bench) -> None:
    assert "missing security updates not known" in shown(bench)
    bases.keep(bench.context.fleet, bench.context.settings)
    assert "1 security update of Debian missing (openssl): `/mautic patch client-x`" in shown(bench)
    bench.lxd.update("client-x", as_labels(base=NEW))
    assert "all security updates known by <!date^" in shown(bench)


def test_status_asks_a_tenant_whose_base_is_unknown(bench: Bench) -> None:
    bases.keep(bench.context.fleet, bench.context.settings)
    simulated_tenant.change(bench.lxd, "client-x", packages={"openssl": "3.0.11"})
    bench.lxd.update("client-x", as_labels(base=""))
    assert "1 security update of Debian missing (openssl)" in shown(bench)


def test_the_digest_names_tenants_without_updates_and_the_oldest_packages(bench: Bench) -> None:
    bases.keep(bench.context.fleet, bench.context.settings)
    found = gather(bench.context, 0)
    assert found.unpatched == [("client-x", 1)]
    assert found.oldest == ("client-x", OLD)


def shown(bench: Bench) -> str:
    return "\n".join(mrkdwn(bench.answer("status client-x").blocks))
