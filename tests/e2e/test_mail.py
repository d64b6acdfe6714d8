"""Waiting mail, on real parts: sent mail does not go out again, and mail that is long overdue only if decided."""

from __future__ import annotations

from bot.guest.blueprint.mautic_ctl.jobs import SENDERS
from tests.support.workspace import eventually
from tests.support.world import CHANNEL, World

TENANT = "mail-x"
OUTBOX = "/var/www/mautic/var/double-outbox.log"


def sql(world: World, statements: str) -> list[str]:
    """Run SQL in the container that is the tenant, and return the rows."""
    ended = world.lxd.execute(
        world.present(TENANT), ["mariadb", "--batch", "--skip-column-names", "mautic", "-e", statements]
    )
    assert ended.code == 0, ended.stderr
    return ended.stdout.splitlines()


def sent(world: World) -> int:
    """Return how many mails the double has handed over, in the container that is the tenant."""
    return len(world.lxd.execute(world.present(TENANT), ["sh", "-c", f"cat {OUTBOX} 2>/dev/null"]).stdout.splitlines())


def put_thirty(world: World) -> None:
    """Put thirty mails into the queue, as Mautic does."""
    row = """('{"to":"x@example.test"}', '[]', 'email', UTC_TIMESTAMP(), UTC_TIMESTAMP())"""
    table = "messenger_messages (body, headers, queue_name, created_at, available_at)"
    sql(world, f"INSERT INTO {table} VALUES {', '.join([row] * 30)}")


def worker(world: World, verb: str) -> None:
    assert world.lxd.execute(world.present(TENANT), ["systemctl", verb, "mautic-worker@email"]).code == 0


def dropped(world: World) -> list[str]:
    return sql(world, "SELECT source, COUNT(*) FROM mautic_ops_dropped GROUP BY source")


def test_sent_mail_goes_out_again_only_if_the_approver_says_so(world: World) -> None:
    try:
        world.done(f"new {TENANT}", "is live")
        worker(world, "stop")
        put_thirty(world)
        world.done(f"snapshot {TENANT}", "taken: ", approve="")
        (snapshot,) = [one.name for one in world.lxd.snapshots(TENANT)]
        worker(world, "start")
        eventually(lambda: sent(world) == 30)

        restore = f"restore {TENANT} {snapshot}"
        card = world.done(restore, "30 dropped", approve=f"approve {TENANT} drop")
        assert "drop waiting mail" in world.card(card), world.card(card)
        assert (sent(world), dropped(world)) == (0, ["messenger_messages\t30"])
        # Its worker runs, and new mail goes out.
        put_thirty(world)
        eventually(lambda: sent(world) == 30)

        world.done(restore, "outbound mail is off; 30 wait", approve=f"approve {TENANT}")
        worker(world, "restart")
        world.done(f"restart {TENANT}", " restarted. ", approve="")
        world.workspace.command("operator", CHANNEL, f"/mautic status {TENANT}")
        world.whisper("operator", r"Outbound mail is off.*30 e-mails wait")
        crontab = world.lxd.pull(world.present(TENANT), "/etc/cron.d/mautic").decode()
        assert crontab.count("#outbound-off# ") == len(SENDERS), crontab
        world.workspace.command("operator", CHANNEL, f"/mautic console {TENANT} mautic:broadcasts:send")
        world.whisper("operator", "its outbound mail is off")
        assert sent(world) == 0

        world.done(f"mail {TENANT} drop", "30 dropped")
        world.done(f"mail {TENANT} back", "outbound mail is off; 30 wait")
        assert (sent(world), dropped(world)) == (0, [])
        world.done(f"mail {TENANT} send", "outbound mail is on; 30 waiting")
        eventually(lambda: sent(world) == 30)

        world.done(restore, "outbound mail is on; 30 waiting", approve=f"approve {TENANT} send")
        eventually(lambda: sent(world) == 30)
    finally:
        world.remove(TENANT)


def test_mail_that_is_long_overdue_waits_until_somebody_decides(world: World) -> None:
    """Stopped, suspended and deleted, each as if for long: no time passes here, so the last successes are backdated."""
    long_ago = r"""sed -i -E 's/"last_success":[0-9]+/"last_success":1000/' /var/lib/mautic-ops/cron/*.json"""
    try:
        world.done(f"new {TENANT}", "is live")
        for stop, start, words in (
            (f"stop {TENANT}", f"start {TENANT}", "is started"),
            (f"suspend {TENANT}", f"resume {TENANT}", "is online again"),
            (f"delete {TENANT}", f"unarchive {TENANT}", "is back from the archive"),
        ):
            worker(world, "stop")
            put_thirty(world)
            world.lxd.execute(world.present(TENANT), ["sh", "-c", f"systemctl stop cron; {long_ago}"])
            world.done(stop, "[Tt]ook", approve=f"approve {TENANT}")
            approve = "approve" if "unarchive" in start else ""
            card = world.done(start, f"(?s){words}.*took", approve=approve)
            assert "outbound mail is off; 30 wait" in "".join(world.thread(card)), world.thread(card)
            assert sent(world) == 0
            world.done(f"mail {TENANT} drop", "30 dropped")
        assert dropped(world) == ["messenger_messages\t90"]
    finally:
        world.remove(TENANT)
