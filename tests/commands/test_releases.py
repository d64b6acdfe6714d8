"""`/mautic releases`, and the warnings about versions with known security holes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bot.lxd.protocol import LxdUnavailable
from bot.model.labels import as_labels
from bot.model.plan import Refused
from schedules.releases import releases
from tests.bot.blueprint.test_archive import released, zipped
from tests.support.bot import Bench, add_blueprint, make_bench
from tests.support.judge import mrkdwn

METADATA = {
    "5.2.9+double": {"minimum_mautic_version": "5.0.0"},
    "5.2.12+double": {"minimum_mautic_version": "5.0.0"},
    "6.0.10+double": {"minimum_mautic_version": "5.2.0"},
    "7.2.2+double": {"minimum_mautic_version": "6.0.0", "minimum_mariadb_version": "10.11.0"},
    "8.0.0+double": {"minimum_php_version": "8.4.0", "maximum_php_version": "8.5.99"},
}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Five releases; three tenants of an old one, one of the newest that has a blueprint."""
    text = ""
    for version, metadata in METADATA.items():
        file = zipped(tmp_path / f"{version}.zip", released(version=version, **metadata))
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        text += f'[releases."{version.partition("+")[0]}"]\narchive = "{file}"\nsha256 = "{digest}"\n'
    config = tmp_path / "mautic-ops.toml"
    config.write_text(text)
    made = make_bench(tmp_path / "state", MAUTIC_OPS_CONFIG=str(config))
    add_blueprint(made.lxd, "5.2.9+double")
    made.done("new client-a,client-b,client-c --version 5.2.9+double")
    made.done("new client-d --version 5.2.12+double")
    releases(made.context)
    return made


def shown(bench: Bench, text: str = "releases") -> str:
    return "\n".join(mrkdwn(bench.answer(text).blocks))


def of(bench: Bench, version: str) -> str:
    """Return what the answer says about one release."""
    return shown(bench).partition(f"*Mautic {version}+double*")[2].partition("*Mautic ")[0]


def test_releases_show_their_tenants_and_the_versions_they_can_upgrade_directly(bench: Bench) -> None:
    versions = [line.split("*")[1] for line in shown(bench).splitlines() if "*Mautic" in line]
    assert versions == [f"Mautic {one}" for one in reversed(METADATA)]
    assert "· 3 tenants ·" in of(bench, "5.2.9")
    assert "Upgrades directly from" not in of(bench, "5.2.9")
    assert "Upgrades directly from 5.2.9+double (3 tenants)\n" in of(bench, "5.2.12")
    assert "Upgrades directly from 5.2.12+double (1 tenant), 5.2.9+double (3 tenants)" in of(bench, "6.0.10")
    assert "Upgrades directly from" not in of(bench, "7.2.2"), "only via 6.0.10"


def test_releases_show_what_they_need_and_where_their_blueprints_are(bench: Bench) -> None:
    assert "PHP 8.1-8.3, MariaDB 10.11.0 or newer" in of(bench, "7.2.2")
    assert "Blueprint: built when needed" in of(bench, "7.2.2")
    assert "PHP 8.4-8.5" in of(bench, "8.0.0")
    assert "Blueprint: built when needed" in of(bench, "8.0.0"), "on a newer Debian"
    bench.lxd.update("blueprint--5-2-12-double", as_labels(created=int(bench.clock()) - 3 * 86_400))
    assert "Blueprint: local, 3 days old, earlier recipe" in of(bench, "5.2.12")


def test_releases_show_known_holes_and_the_end_of_support(bench: Bench) -> None:
    old = of(bench, "5.2.9")
    assert "· support ended 30 Jun 2026 (paid until 30 Jun 2028)" in old
    assert "5 known security holes: 1 critical, 1 unrated, 2 high, 1 medium · fixed in 5.2.12" in old
    assert "· CVE-2026-9558 https://github.com/advisories/GHSA-9fx4-7cmj-47vg\n" in old
    assert "and 2 more" in old
    assert "holes" not in of(bench, "5.2.12")
    icons = [line.split()[0] for line in shown(bench).splitlines() if "*Mautic" in line]
    assert icons[-1] == ":red_circle:"
    assert icons[1] == ":large_green_circle:"


def test_a_version_without_a_release_is_shown_too(bench: Bench) -> None:
    bench.lxd.update("client-d", as_labels(version="5.1.1+double"))
    assert "· 1 tenant ·" in of(bench, "5.1.1")
    assert "PHP" not in of(bench, "5.1.1")


def test_a_silent_server_is_named(bench: Bench) -> None:
    bench.lxd.fail_next("instances", LxdUnavailable("It gave up after 5 s."))
    assert "*local does not answer*, so its tenants and blueprints are not included" in shown(bench)


def test_without_releases_the_answer_says_so(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.lxd.delete("blueprint--5-2-12-double")
    assert "No releases yet." in shown(bench)


def test_the_card_of_a_new_tenant_names_known_holes(bench: Bench) -> None:
    remarks = bench.ask("new client-x --version 5.2.9+double").plan["remarks"]
    assert remarks["Security"].startswith("Mautic 5.2.9+double has 5 known security holes (1 critical, ")
    assert "Security" not in bench.ask("new client-y --version 5.2.12+double").plan["remarks"]
    many = bench.ask("new client-p,client-q --version 5.2.9+double").plan
    assert many["remarks"]["Security"] == remarks["Security"]


def test_the_settings_may_refuse_a_new_tenant_with_known_holes(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_ADVISORIES__REFUSE="critical")
    add_blueprint(bench.lxd, "5.2.9+double")
    with pytest.raises(Refused, match=r"known security holes .* fixed in 5\.2\.12\. The setting `advisories.refuse`"):
        bench.ask("new client-x --version 5.2.9+double")
    assert bench.done("new client-x --version 5.2.12+double").state == "succeeded"


def test_status_names_known_holes(bench: Bench) -> None:
    assert ":shield: Mautic 5.2.9+double has 5 known security holes" in shown(bench, "status client-a")
    assert ":shield:" not in shown(bench, "status client-d")
