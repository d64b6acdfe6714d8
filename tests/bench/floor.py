"""What LXD alone takes: a page after a start; a migration, from the stop at one host to the page at the other; an
upgrade, from the stop to the page of the upgraded copy.
"""

from __future__ import annotations

import time

from bot.lxd.gateway import LxdGateway
from bot.model.labels import as_labels
from tests.support.workspace import eventually

PATIENCE = 120.0
"""Seconds after which a start is taken to have failed."""


def login_page(lxd: LxdGateway, name: str, domain: str = "localhost") -> bool:
    """Whether the login page is there, asked for inside as by an edge with HTTPS: a Mautic leads plain HTTP to it."""
    get = ["curl", "--silent", "--fail", "--max-time", "10", "--unix-socket", "/run/nginx-inside.sock"]
    headers = ["--header", "X-Forwarded-Proto: https", "--header", f"Host: {domain}"]
    return 'name="_username"' in lxd.execute(name, [*get, *headers, "http://localhost/s/login"]).stdout


def migration_floor(source: LxdGateway, target: LxdGateway, name: str, domain: str) -> float:
    """Seconds of the way that cannot be shorter: stop, last snapshot, what differs, start, address, login page.

    `name` runs at the source, unsealed, and does so again at the end. What goes before the stop is not counted: the
    copy while it runs, twice.
    """
    copy = f"{name}--floor"
    # No second tenant, and one that can be deleted.
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
"""An upgrade with nothing that could be left out, of a tenant of before whose new tree is staged, and warm."""


def upgrade_floor(lxd: LxdGateway, name: str, domain: str) -> float:
    """Seconds of the way that cannot be shorter: stop, snapshot, copy, start, swap, migrate, login page.

    `name` runs, open, with the release staged and its cache laid, and does so again at the end.
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
