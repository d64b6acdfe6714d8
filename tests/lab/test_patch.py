"""Newer Debian packages for a tenant, on the whole stack: a freshly cloned container with the tenant's own data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.guest.mautic import Mautic
from bot.lxd.gateway import LxdGateway
from bot.model.labels import as_labels, label_of
from bot.settings import load
from tests.mautic_double.contract import ROOT
from tests.support.forms import make_form
from tests.support.lab_world import Client
from tests.support.workspace import eventually
from tests.support.world import LISTEN, World, settings_for

TENANT = "patch-x"
DOMAIN = f"{TENANT}.e2e.localhost"
PEOPLE = """
INSERT INTO leads (date_added, email) SELECT UTC_TIMESTAMP(), CONCAT('old-', seq, '@example.com') FROM seq_1_to_20000;
"""
OWN = {
    "media/files/a.pdf": "the client's",
    "media/images/logo.png": "the client's",
    "plugins/AcmeBundle/readme.txt": "the client's",
    "themes/acme/config.json": "{}",
    "robots.txt": "laid by hand",
    "themes/blank/config.json": "changed by hand",
}
LEFT = f"""
install -m 4755 /bin/sh /usr/local/bin/mine
install -m 4755 /bin/sh {ROOT}/media/files/mine
mkfifo {ROOT}/media/files/pipe
ln -s /etc/shadow {ROOT}/media/files/link
"""
LAY = 'mkdir -p "$(dirname "$1")" && printf "%s" "$2" >"$1"'


@pytest.fixture
def world(host: LxdGateway, tmp_path: Path) -> Iterator[World]:
    _, environment = settings_for(host.endpoint, tmp_path / "state")
    settings = load(environment=environment)
    settings.state.mkdir()
    made = World(host, settings, environment, tmp_path)
    yield made
    made.close()


def sh(world: World, instance: str, *argv: str) -> str:
    ended = world.lxd.execute(instance, list(argv), timeout=60)
    assert ended.code == 0, ended.stderr
    return ended.stdout


def sql(world: World, instance: str, statements: str) -> list[str]:
    return sh(world, instance, "mariadb", "--batch", "--skip-column-names", "mautic", "-e", statements).split()


def test_a_patched_tenant_has_a_new_system_and_all_of_its_own_data(world: World) -> None:
    try:
        world.done(f"new {TENANT}", "is live")
        make_form(world.lxd, TENANT)
        sql(world, TENANT, PEOPLE)
        for path, text in OWN.items():
            sh(world, TENANT, "sh", "-euc", LAY, "sh", f"{ROOT}/{path}", text)
        # Left by somebody with root in the tenant: none of it may be carried over.
        sh(world, TENANT, "sh", "-euc", LEFT)
        # Its packages are years old by this label.
        world.lxd.update(TENANT, as_labels(base=1_700_000_000))
        world.done(f"rehearse {TENANT} --base", "is rehearsed|was rehearsed", approve="")
        client = Client(LISTEN, world.edge.authority(), DOMAIN, "/form/submit?formId=1")
        with client as visitor:
            eventually(lambda: len(visitor.acknowledged) > 20)
            card = world.done(f"patch {TENANT}", "now runs on newer Debian packages")
            after = len(visitor.acknowledged)
            eventually(lambda: len(visitor.acknowledged) > after + 5)
        present = world.present(TENANT)
        print(f"away for {max(visitor.gaps):.1f} s; {world.card(card)}")
        labels = world.lxd.instance(present).config
        assert (label_of(labels, "version"), label_of(labels, "state")) == ("5.2.12+double", "live")
        assert int(label_of(labels, "base")) > 1_700_000_000
        assert present != TENANT
        kept = set(sql(world, present, "SELECT email FROM leads"))
        assert set(visitor.acknowledged) <= kept
        assert len([one for one in kept if one.startswith("old-")]) == 20_000
        for path, text in OWN.items():
            assert sh(world, present, "cat", f"{ROOT}/{path}") == text, path
        assert sh(world, present, "stat", "-c", "%U %a", f"{ROOT}/config", f"{ROOT}/plugins/AcmeBundle/readme.txt") == (
            "www-data 750\nroot 644\n"
        )
        found = sh(world, present, "sh", "-euc", "find / -xdev -name mine -perm /6000; find /var/www -type p")
        assert found == ""
        assert world.lxd.execute(present, ["test", "-e", "/usr/local/bin/mine"]).code == 1
        assert world.edge.probe(DOMAIN).login
        assert Mautic(world.lxd).health(present, world.settings.health)["checks"]["services"]["ok"]
    finally:
        world.remove(TENANT)
