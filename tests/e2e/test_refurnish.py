"""A tenant of an earlier bot is shown as out of date, and brought up to date by one request while it serves."""

from __future__ import annotations

from tests.lab.test_idle import BEFORE
from tests.support.world import World

OLD = """
systemctl stop mautic-worker@email; systemctl disable --now mautic-look 2>&1
rm -rf /usr/local/lib/mautic-ops /usr/local/bin/mautic-look /etc/systemd/system/mautic-look.service
rm -f /etc/default/mautic-cron /var/lib/mautic-ops/furniture.json
cd /var/www/mautic; mkdir themes/acme; chown -R root:root themes; chmod 755 themes
mariadb -e "DROP USER 'www-data'@'localhost'"
"""


def test_an_older_tenant_is_brought_up_to_date(world: World) -> None:
    tenant = "before-x"
    try:
        world.done(f"new {tenant}", "is live", user="account-manager")
        assert world.lxd.execute(tenant, ["sh", "-c", OLD], timeout=120).code == 0
        for path, text in BEFORE.items():
            world.lxd.push(tenant, path, text.encode(), mode=0o755 if "/bin/" in path else 0o644)
        again = "systemctl daemon-reload; systemctl restart mariadb; systemctl start mautic-worker@email"
        assert world.lxd.execute(tenant, ["sh", "-c", again], timeout=120).code == 0
        world.lxd.update(tenant, {"user.mautic-ops.furniture": None, "user.mautic-ops.slot": None})
        world.workspace.command("operator", "mautic-ops", f"/mautic status {tenant}")
        world.whisper("operator", "files in it are out of date")

        world.done(f"refurnish {tenant}", "are up to date")
        assert world.edge.probe(f"{tenant}.e2e.localhost").login
        looks = world.lxd.execute(tenant, ["systemctl", "is-active", "mautic-look", "mautic-worker@email"]).stdout
        assert looks.split() == ["active", "active"]
        crontab = world.lxd.execute(tenant, ["grep", "-c", "mautic-cron 50 7200", "/etc/cron.d/mautic"]).stdout
        assert int(crontab) >= 4
        themes = "cd /var/www/mautic/themes; stat -c '%U %a' . acme blank"
        rights = world.lxd.execute(tenant, ["sh", "-c", themes]).stdout.splitlines()
        assert rights == ["root 1775", "www-data 755", "root 755"]
        assert "slot=" in world.lxd.execute(tenant, ["cat", "/etc/default/mautic-cron"]).stdout
        world.workspace.command("operator", "mautic-ops", f"/mautic refurnish {tenant}")
        world.whisper("operator", "nothing to do")
    finally:
        world.remove(tenant)
