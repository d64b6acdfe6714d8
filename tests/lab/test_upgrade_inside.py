"""An upgrade inside a tenant, on the whole stack: staged while it serves, swapped, migrated, its cache carried over."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bot.guest.mautic import Mautic
from bot.lxd.gateway import LxdGateway
from bot.lxd.protocol import LxdError
from tests.lab.conftest import Clone
from tests.lab.test_tenant_tool import ask, sql, submit, visitors, well
from tests.mautic_double.contract import ROOT, Execute, add_plugin, http
from tests.mautic_double.upgrade_contract import (
    AFTER,
    BEFORE,
    CHECKS,
    MIGRATIONS,
    Tenant,
    check_a_cache_is_carried_over,
    check_a_cache_of_another_version_is_not,
)
from tests.support.forms import make_form

Make = Callable[[], tuple[Clone, Tenant]]
FORM = 77


@pytest.fixture(scope="module")
def mautic(host: LxdGateway) -> Mautic:
    return Mautic(host)


@pytest.fixture(scope="module")
def make(mautic: Mautic, clone: Callable[..., Clone], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes open tenants of 5.2.12."""

    def made() -> tuple[Clone, Tenant]:
        tenant = clone()
        return tenant, Tenant(mautic, tenant.name, tmp_path_factory.mktemp("archives"))

    return made


@pytest.fixture(scope="module")
def upgraded(make: Make) -> tuple[Clone, Tenant]:
    """The tenant that the checks upgrade to 6.0.10, in their order."""
    return make()


def inside(host: LxdGateway, tenant: Clone) -> Execute:
    """Return a function that runs programs in a tenant."""

    def run(argv: list[str]) -> tuple[int, str, str]:
        ended = host.execute(tenant.name, argv, timeout=120)
        return ended.code, ended.stdout, ended.stderr

    return run


def as_mautic(execute: Execute, code: str) -> str:
    """Run shell code in the serving tree with Mautic's rights, and return its standard error."""
    return execute(["runuser", "-u", "www-data", "--", "sh", "-euc", f"cd {ROOT}; {code}"])[2]


def write(host: LxdGateway, tenant: Clone, path: str, text: str) -> None:
    """Write a file into the serving tree, owned by the web server's user."""
    folder = str(Path(path).parent)
    code = 'mkdir -p "$1/$2" && printf "%s" "$4" >"$1/$3" && chown -R www-data "$1/$2"'
    assert host.execute(tenant.name, ["sh", "-euc", code, "sh", ROOT, folder, path, text]).code == 0


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_an_upgrade_keeps_the_contract(check: Callable[[Tenant], None], upgraded: tuple[Clone, Tenant]) -> None:
    check(upgraded[1])


def test_an_upgraded_tenant_keeps_its_files_settings_and_acknowledged_writes(
    host: LxdGateway, mautic: Mautic, make: Make, upgraded: tuple[Clone, Tenant]
) -> None:
    clone, tenant = make()
    execute = inside(host, clone)
    check_a_cache_of_another_version_is_not(upgraded[1], tenant)
    make_form(host, clone.name, FORM)
    for path in ("media/files/a.pdf", "media/images/logo.png", "translations/de/messages.ini"):
        write(host, clone, path, "the client's")
    assert as_mautic(execute, "mkdir themes/acme && echo '{}' >themes/acme/config.json") == ""
    assert "denied" in as_mautic(execute, "echo broken >themes/blank/config.json")
    assert "not permitted" in as_mautic(execute, "mv themes/blank themes/gone")
    local = execute(["cat", f"{ROOT}/config/local.php"])[1]
    with visitors(clone) as acknowledged:
        while not acknowledged:
            time.sleep(0.05)
        began = time.monotonic()
        check_a_cache_is_carried_over(upgraded[1], tenant)
        took = time.monotonic() - began
    assert submit(clone, "after@example.test") == 200
    kept = set(sql(host, clone.name, "SELECT email FROM leads").split())
    assert set(acknowledged) | {"after@example.test"} <= kept
    assert execute(["cat", f"{ROOT}/config/local.php"])[1] == local
    for path in ("media/files/a.pdf", "media/images/logo.png", "translations/de/messages.ini"):
        assert execute(["cat", f"{ROOT}/{path}"])[1] == "the client's"
        assert execute(["cat", f"/var/www/mautic.before/{path}"])[1] == "the client's"
    assert execute(["stat", "-c", "%U %a", f"{ROOT}/config", f"{ROOT}/app", f"{ROOT}/var/cache/prod"])[1] == (
        "www-data 750\nroot 755\nwww-data 755\n"
    )
    assert as_mautic(execute, "echo '{}' >themes/acme/config.json && mkdir themes/later") == ""
    assert "not permitted" in as_mautic(execute, "mv themes/blank themes/gone")
    assert "6.0.10" in ask(clone.address, clone.domain, "/media/css/app.css")[2]
    well(mautic, clone)
    print(f"staged, closed, upgraded and opened in {took:.2f} s")


def test_own_plugins_are_kept_and_the_evidence_says_which_load(host: LxdGateway, make: Make) -> None:
    clone, tenant = make()
    execute = inside(host, clone)
    add_plugin(execute, "AcmeBundle")
    add_plugin(execute, "OldBundle", "const MINIMUM_MAUTIC_VERSION = '9.0.0';")
    tenant.mautic.stop_work(clone.name)
    tenant.upgrades.warm(clone.name)
    tenant.upgrades.reload(clone.name)
    own = tenant.upgrades.stage(clone.name, tenant.archive("6.0.10"))["own"]
    assert (own["plugins"], own["changed"], own["overlay"]) == (["AcmeBundle", "OldBundle"], [], [])
    assert tenant.upgrades.upgrade(clone.name, AFTER)["up_to_date"]
    assert tenant.upgrades.evidence(clone.name)["plugins"] == {
        "AcmeBundle": {"version": "1.5", "loads": True},
        "OldBundle": {"version": "", "loads": False},
    }


def test_a_broken_upgrade_is_reported_and_works_once_its_cause_is_repaired(host: LxdGateway, make: Make) -> None:
    clone, tenant = make()
    execute = inside(host, clone)
    double = f"{ROOT}/config/double.php"
    fault = "<?php return ['doctrine:migrations:migrate' => ['{}' => '{}']];"
    add_plugin(
        execute, "KillerBundle", "public function __construct() { new \\Mautic\\CoreBundle\\Factory\\MauticFactory; }"
    )
    tenant.upgrades.stage(clone.name, tenant.archive("6.0.10"))
    tenant.mautic.stop_work(clone.name)
    with pytest.raises(LxdError, match=r"cache:clear ended with 255: .*MauticFactory.* not found"):
        tenant.upgrades.upgrade(clone.name, AFTER)
    # The way to recover: the folder is removed, and the cache is rebuilt.
    execute(["rm", "-rf", f"{ROOT}/plugins/KillerBundle"])
    write(host, clone, "config/double.php", fault.format("hang_migration", MIGRATIONS[0]))
    late = tenant.upgrades.upgrade(clone.name, AFTER, seconds=3)
    assert (late["migrated"]["done"], late["migrated"]["code"], late["migrated"]["ran"]) == (False, 124, [])
    execute(["rm", double])
    half = tenant.upgrades.upgrade(clone.name, AFTER)["migrated"]
    assert half["done"] is False
    assert "Duplicate column name" in half["output"], "a half-done migration cannot be repeated"
    sql(host, clone.name, "ALTER TABLE campaigns DROP COLUMN uuid")
    assert tenant.upgrades.upgrade(clone.name, AFTER)["migrated"]["ran"] == MIGRATIONS
    execute(["rm", "-f", f"{ROOT}/media/css/app.css"])
    assert tenant.upgrades.assets(clone.name)["/media/css/app.css"]["status"] == 404


def test_a_cache_of_the_old_version_breaks_everything_and_a_rebuilt_one_does_not(host: LxdGateway, make: Make) -> None:
    clone, tenant = make()
    execute = inside(host, clone)
    tenant.upgrades.stage(clone.name, tenant.archive("6.0.10"))
    tenant.mautic.stop_work(clone.name)
    assert execute(["cp", "-a", f"{ROOT}/var/cache/prod", "/var/www/mautic.next/var/cache/"])[0] == 0
    tenant.upgrades.swap(clone.name, AFTER)
    for words in ("cache:clear", "doctrine:migrations:status"):
        argv = ["runuser", "-u", "www-data", "--", "php8.2", f"{ROOT}/bin/console", words, "-n"]
        assert execute(argv)[0] == 255, words
    execute(["systemctl", "start", "php8.2-fpm"])
    assert http(execute, "/s/login")[0] == 500
    assert tenant.upgrades.upgrade(clone.name, AFTER)["up_to_date"]
    assert http(execute, "/s/login")[0] == 200


def test_the_first_upgrade_without_records_runs_only_the_new_migrations(host: LxdGateway, make: Make) -> None:
    """As in a tenant from an earlier blueprint, which recorded neither its migrations nor the files of its release."""
    clone, tenant = make()
    sql(host, clone.name, "DROP TABLE migrations")
    host.execute(clone.name, ["rm", "/var/lib/mautic-ops/release-files"])
    staged = tenant.upgrades.stage(clone.name, tenant.archive("6.0.10"))
    assert (staged["before"], staged["own"]["known"]) == (BEFORE, False)
    tenant.mautic.stop_work(clone.name)
    done = tenant.upgrades.upgrade(clone.name, AFTER)
    assert (done["migrated"]["ran"], done["migrated"]["unregistered"], done["up_to_date"]) == (MIGRATIONS, 1, True)
    # On to 7, one of whose migrations is skipped by a pre-check.
    tenant.upgrades.stage(clone.name, tenant.archive("7.2.2"))
    on = tenant.upgrades.upgrade(clone.name, "7.2.2+double")
    assert (on["migrated"]["ran"], on["migrated"]["skipped"]) == (["20260315000000"], ["20260301000000"])
    assert tenant.upgrades.up_to_date(clone.name)["code"] == 0
