"""The blueprint on a real server: what it consists of, and which requests a clone of it answers."""

import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from bot.edge.edge import Edge
from bot.guest.blueprint.archive import Archive
from bot.guest.blueprint.build import Blueprint, blueprints, build, export
from bot.guest.mautic import CLOSED, MUTE, Mautic
from bot.lxd.gateway import LxdGateway
from bot.lxd.protocol import NotFound
from bot.model.labels import label_of
from bot.settings import load
from tests.lab.conftest import CACHE, Clone, eventually
from tests.support.real_lxd import LXD_PLACE


class Answer(NamedTuple):
    status: int
    body: str
    headers: dict[str, str]


def get(clone: Clone, path: str, **headers: str) -> Answer:
    connection = http.client.HTTPConnection(clone.address, 80, timeout=30)
    try:
        connection.putrequest("GET", path, skip_host=True)
        for name, value in {"Host": clone.domain, "Connection": "close", **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return Answer(answer.status, answer.read().decode(errors="replace"), dict(answer.getheaders()))
    finally:
        connection.close()


@pytest.fixture(scope="module")
def tenant(clone: Callable[..., Clone]) -> Clone:
    return clone()


def test_a_blueprint_is_stopped_and_labelled_and_has_its_snapshot(
    host: LxdGateway, blueprint: Blueprint, double_archive: Archive
) -> None:
    instance = host.instance(blueprint.instance)
    assert not instance.running
    assert label_of(instance.config, "role") == "blueprint"
    assert (blueprint.version, blueprint.archive) == (double_archive.version, double_archive.sha256)
    assert blueprint.double
    assert [snapshot.name for snapshot in host.snapshots(blueprint.instance)] == ["golden"]
    assert blueprint in blueprints(host)


def test_building_again_changes_nothing(host: LxdGateway, blueprint: Blueprint, double_archive: Archive) -> None:
    told: list[str] = []
    assert build(host, double_archive, base="debootstrap", cache=CACHE, progress=told.append) == blueprint
    assert told == []


def test_an_interrupted_build_leaves_no_unfinished_instance(
    host: LxdGateway, blueprint: Blueprint, double_archive: Archive
) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(stage: str) -> None:
        if "installing" in stage:
            raise Interrupted

    other = Archive(double_archive.path, "f" * 64, double_archive.version)
    with pytest.raises(Interrupted):
        build(host, other, base="debootstrap", cache=CACHE, progress=interrupt)
    assert [one.name for one in host.instances() if "--building" in one.name] == []


def test_a_blueprint_can_be_exported_as_an_image(host: LxdGateway, blueprint: Blueprint, tmp_path: Path) -> None:
    path = tmp_path / "blueprint.tar.zst"
    fingerprint = export(host, blueprint, path)
    properties = host.image(blueprint.instance)
    assert properties
    assert properties["fingerprint"] == fingerprint
    assert properties["mautic-ops.archive"] == blueprint.archive
    assert properties["mautic-ops.double"] == "1"
    assert path.stat().st_size > 50_000_000


def test_a_clone_without_an_identity_is_closed_for_every_path(clone: Callable[..., Clone]) -> None:
    sealed = clone(sealed=True)
    for path in ("/s/login", "/", "/installer", "/index.php", "/index.php/installer", "/config/local.php", "/mtc.js"):
        answer = eventually(lambda path=path: try_to_get(sealed, path), lambda answer: answer.status != 0)
        assert answer.status == 503, path
        assert "Retry-After" in answer.headers


def try_to_get(clone: Clone, path: str) -> Answer:
    try:
        return get(clone, path)
    except OSError as error:
        return Answer(0, str(error), {})


def test_a_clone_with_an_identity_shows_its_login_page(tenant: Clone) -> None:
    answer = get(tenant, "/s/login")
    assert answer.status == 200
    assert 'name="_username"' in answer.body
    assert answer.headers["X-Mautic-Double"] == "1"


@pytest.mark.parametrize(
    "path",
    [
        "/installer",
        "/index.php/installer",
        "/index.php/installer/step/1",
        "/%69nstaller",
        "//installer",
        "/.env",
        "/.htaccess",
        "/config/local.php",
        "/config/local.php/index.php",
        "/var/logs/mautic_prod.php",
        "/var/cache/prod/anything",
        "/vendor/composer/installed.json",
        "/bin/console",
        "/media/files/secret.pdf",
        "/media/images/shell.php",
        "/media/images/shell.phtml",
        "/media/images/shell.php/x.jpg",
        "/translations/en/a.ini",
        "/app/release_metadata.json",
        "/app/migrations/Version20230901000000.php",
        "/composer.json",
        "/package-lock.json",
        "/themes/blank/html/base.html.twig",
        "/plugins/X/config.yml",
        "/upgrade.php",
        "/index_dev.php",
    ],
)
def test_nginx_denies_paths_that_are_not_public(tenant: Clone, path: str) -> None:
    answer = get(tenant, path)
    assert answer.status == 404
    assert "X-Mautic-Double" not in answer.headers, "the request reached Mautic"


def test_uploads_are_served_and_never_executed(host: LxdGateway, tenant: Clone) -> None:
    code = b"<?php echo 6*7;"
    paths = (
        *("media/images/a.txt", "media/images/.tmb/a.png", "media/images/a.php", "media/images/.tmb/a.php"),
        *("media/images/.hidden", "var/logs/mautic_prod-2026-01-01.php", "app/assets/a.php"),
    )
    for path in paths:
        host.execute(tenant.name, ["mkdir", "-p", f"/var/www/mautic/{path.rpartition('/')[0]}"])
        host.push(tenant.name, f"/var/www/mautic/{path}", code, mode=0o644)
    for path in paths[:2]:
        assert get(tenant, f"/{path}").body == code.decode()
    for path in paths[2:]:
        assert get(tenant, f"/{path}").status == 404


def test_the_web_server_owns_only_the_folders_that_mautic_writes(host: LxdGateway, tenant: Clone) -> None:
    written = host.execute(
        tenant.name, ["find", "/var/www/mautic", "-user", "www-data", "-maxdepth", "1", "-printf", "%f "]
    )
    assert sorted(written.stdout.split()) == ["config", "media", "translations", "var"]
    shown = host.execute(
        tenant.name, ["stat", "-c", "%a", "/var/www/mautic/config", "/var/www/mautic/config/local.php"]
    )
    assert shown.stdout.split() == ["750", "640"]


def test_forwarded_headers_are_trusted_only_from_the_edge(
    host: LxdGateway, edge: Edge, clone: Callable[..., Clone]
) -> None:
    """This machine asks from the bridge's own address, which only the second clone knows as the edge's."""
    script = (
        b"<?php $said = fn ($value, $name) => $value !== '' && preg_match('/FORWARDED|CLIENT_IP/', $name);"
        b"echo json_encode([$_SERVER['REMOTE_ADDR'], $_SERVER['HTTPS'] ?? '', $_SERVER['HTTP_HOST'],"
        b"array_filter($_SERVER, $said, ARRAY_FILTER_USE_BOTH)]);"
    )
    forged = {"X_Forwarded_For": "203.0.113.9", "X_Forwarded_Proto": "https", "Client_Ip": "203.0.113.7"}
    seen = []
    machine = LXD_PLACE.subnet.partition("/")[0]
    for edge_address in (edge.address, machine):
        one = clone(edge_address=edge_address)
        host.push(one.name, "/var/www/mautic/index.php", script, mode=0o644)
        host.execute(one.name, ["systemctl", "reload", "php8.2-fpm"])
        seen.append(
            json.loads(eventually(lambda one=one: get(one, "/seen", **forged), lambda a: a.body[:1] == "[").body)
        )
        assert seen[-1].pop(2) == one.domain
    assert seen == [[machine, "", []], ["203.0.113.9", "on", []]]


def cron(lxd: LxdGateway, clone: Clone, *job: str) -> dict[str, object]:
    """Run a job at once as cron would, and return its heartbeat; wait while cron itself is running the job."""
    command = ["runuser", "-u", "www-data", "--", "/usr/local/bin/mautic-cron", "1", "30", *job]
    name = job[0].replace(":", "_")

    def beat() -> dict[str, object]:
        assert lxd.execute(clone.name, command).code == 0
        found: dict[str, object] = json.loads(lxd.pull(clone.name, f"/var/lib/mautic-ops/cron/{name}.json"))
        return found

    return eventually(beat, lambda seen: seen["skipped"] != "running")


@pytest.fixture(scope="module")
def busy(host: LxdGateway, tenant: Clone) -> Clone:
    """The tenant with a segment, so that the job for segments has something to do. Only the tests run it."""
    segment = (
        "INSERT INTO lead_lists SET name = 'busy', alias = 'busy', filters = 'a:0:{}', date_added = UTC_TIMESTAMP()"
    )
    assert host.execute(tenant.name, ["mariadb", "mautic", "-e", segment]).code == 0
    assert host.execute(tenant.name, ["sed", "-i", "/segments:update/d", "/etc/cron.d/mautic"]).code == 0
    return tenant


def test_a_failed_job_keeps_the_time_of_its_last_success(host: LxdGateway, busy: Clone) -> None:
    well = cron(host, busy, "mautic:segments:update", "--bypass-locking")
    assert well["rc"] == 0
    assert isinstance(well["last_success"], int)
    badly = cron(host, busy, "mautic:segments:update", "--no-such-option")
    assert badly["rc"] == 1
    assert badly["last_success"] == well["last_success"]


def test_a_job_does_not_run_twice_at_once(host: LxdGateway, busy: Clone) -> None:
    lock = "/var/lib/mautic-ops/cron/mautic_segments_update.json"
    cron(host, busy, "mautic:segments:update")
    held = f"flock {lock.removesuffix('.json')}.lock runuser -u www-data -- mautic-cron 1 30 mautic:segments:update"
    assert host.execute(busy.name, ["sh", "-c", held]).code == 0
    assert json.loads(host.pull(busy.name, lock))["skipped"] == "running"


def test_a_closed_or_muted_container_runs_no_job(host: LxdGateway, clone: Callable[..., Clone]) -> None:
    sealed = clone(sealed=True)
    beat = cron(host, sealed, "mautic:messages:send", "--bypass-locking")
    assert (beat["skipped"], beat["rc"], beat["last_success"]) == ("sealed", None, None)
    host.push(sealed.name, MUTE, b"", mode=0o644)
    host.remove(sealed.name, CLOSED)
    beat = cron(host, sealed, "mautic:messages:send", "--bypass-locking")
    assert (beat["skipped"], beat["rc"], beat["last_success"]) == ("muted", None, None)


def test_a_restart_starts_the_worker_and_removes_its_stale_lock(host: LxdGateway, clone: Callable[..., Clone]) -> None:
    one = clone()

    def worker() -> str:
        return host.execute(one.name, ["systemctl", "is-active", "mautic-worker@email"]).stdout.strip()

    eventually(worker, lambda state: state == "active")
    lock = "/var/www/mautic/var/cache/run/sf.x.lock"
    host.execute(one.name, ["install", "-D", "-o", "www-data", "/dev/null", lock])
    host.restart(one.name)
    eventually(worker, lambda state: state == "active")
    with pytest.raises(NotFound):
        host.pull(one.name, lock)


def test_a_fresh_tenant_is_healthy(host: LxdGateway, clone: Callable[..., Clone]) -> None:
    one = clone()

    def health() -> list[str]:
        checks = Mautic(host).health(one.name, load(environment={}).health)["checks"]
        return [f"{name}: {check['text']}" for name, check in checks.items() if not check["ok"]]

    assert eventually(health, lambda bad: not bad) == []


def test_a_tenant_cannot_add_kernel_keys(host: LxdGateway, tenant: Clone) -> None:
    """All tenants share one range of uids, so one tenant could use up the kernel's quota of keys for all of them."""
    make_key = (
        "import ctypes, errno, os; libc = ctypes.CDLL(None, use_errno=True); "
        "made = libc.syscall({'x86_64': 248}.get(os.uname().machine, 217), b'user', b'mine', b'x', 1, -2); "
        "print(made, errno.errorcode.get(ctypes.get_errno()))"
    )
    assert host.execute(tenant.name, ["python3", "-c", make_key]).stdout.strip() == "-1 ENOSYS"


def test_cron_runs_a_job_that_leaves_a_heartbeat(host: LxdGateway, tenant: Clone) -> None:
    """The last test of the file: the minutes that it waits for pass while the others run."""
    path = "/var/lib/mautic-ops/cron/mautic_webhooks_process.json"

    def beat() -> dict[str, object]:
        try:
            found: dict[str, object] = json.loads(host.pull(tenant.name, path))
        except NotFound:
            return {}
        return found

    found = eventually(beat, lambda seen: bool(seen.get("last_success")), seconds=150)
    assert found["cmd"] == "mautic:webhooks:process"
    assert found["skipped"] is False
