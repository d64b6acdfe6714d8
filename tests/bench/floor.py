"""Measures how long LXD alone takes for a migration and for an upgrade, as the lower bounds for the bot.

A migration: from the stop on one host to the page on the other; an upgrade: from the stop to the page of the upgraded
copy.
"""

from __future__ import annotations

import time

from bot.lxd.gateway import LxdGateway
from bot.model.labels import as_labels
from tests.support.workspace import eventually

PATIENCE = 120.0
"""Seconds after which a start counts as failed."""


def login_page(lxd: LxdGateway, name: str, domain: str = "localhost") -> bool:
    """Return whether the login page is there, requested inside as by an HTTPS edge: Mautic redirects plain HTTP."""
    get = ["curl", "--silent", "--fail", "--max-time", "10", "--unix-socket", "/run/nginx-inside.sock"]
    headers = ["--header", "X-Forwarded-Proto: https", "--header", f"Host: {domain}"]
    return 'name="_username"' in lxd.execute(name, [*get, *headers, "http://localhost/s/login"]).stdout


def migration_floor(source: LxdGateway, target: LxdGateway, name: str, domain: str) -> float:
    """Return the seconds that cannot be avoided: stop, last snapshot, last difference, start, address, login page.

    `name` runs at the source, open, and does so again at the end. What comes before the stop is not counted: the copy
    of the running tenant, twice.
    """
    copy = f"{name}--floor"
    # The copy must not be a second tenant, and must be deletable.
    config = {"security.protection.delete": "", **as_labels(role="incoming", state="", operation="")}
    source.snapshot(name, "floor-1")
    target.receive(source, name, copy, config=config, devices={})
    source.snapshot(name, "floor-2")
    target.receive(source, name, copy, config=config, devices={}, refresh=True)
    began = time.perf_counter()
    source.stop(name)
    source.snapshot(name, "floor-3")
    target.receive(source, name, copy, config=config, devices={}, refresh=True)
    target.start(copy)
    eventually(lambda: target.state(copy).address, PATIENCE)
    eventually(lambda: login_page(target, copy, domain), PATIENCE)
    took = time.perf_counter() - began
    target.stop(copy, force=True)
    target.delete(copy)
    for snapshot in ("floor-1", "floor-2", "floor-3"):
        source.delete_snapshot(name, snapshot)
    source.start(name)
    return took


SWAP = """
cd /var/www
php=php$(ls /etc/php | tail -1)
until systemctl stop $php-fpm 2>/dev/null; do sleep 0.02; done
mv mautic mautic.before && mv mautic.next mautic
for name in config media/files media/images; do rm -rf mautic/$name && mv mautic.before/$name mautic/$name; done
until mariadb -e 'SELECT 1' >/dev/null 2>&1; do sleep 0.02; done
runuser -u www-data -- $php mautic/bin/console doctrine:migrations:migrate -n
systemctl start $php-fpm
"""
"""An upgrade with nothing that could be left out, of a tenant of the old version whose new tree is staged and warm."""


def upgrade_floor(lxd: LxdGateway, name: str, domain: str) -> float:
    """Return the seconds that cannot be avoided: stop, snapshot, copy, start, swap, migrate, login page.

    `name` runs, open, with the release staged and its cache in place, and does so again at the end.
    """
    copy = f"{name}--floor"
    config = {"security.protection.delete": "", **as_labels(role="incoming", state="", operation="")}
    began = time.perf_counter()
    lxd.stop(name)
    lxd.snapshot(name, "floor")
    lxd.copy(name, copy, config=config, devices={})
    lxd.start(copy)
    ended = lxd.execute(copy, ["sh", "-ec", SWAP], timeout=PATIENCE)
    assert ended.code == 0, ended
    eventually(lambda: lxd.state(copy).address, PATIENCE)
    eventually(lambda: login_page(lxd, copy, domain), PATIENCE)
    took = time.perf_counter() - began
    lxd.stop(copy, force=True)
    lxd.delete(copy)
    lxd.delete_snapshot(name, "floor")
    lxd.start(name)
    eventually(lambda: login_page(lxd, name, domain), PATIENCE)
    return took
