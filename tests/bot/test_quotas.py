"""A pool that the kernel has stopped counting: no usage is shown as true, and the pool is rescanned or reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bot.fleet.health import diagnose
from bot.guest.mautic import Disk
from bot.lxd import btrfs
from bot.lxd.protocol import LxdError, Quotas
from bot.model.labels import as_labels
from bot.model.plan import Refused
from bot.store import metrics
from schedules import health as sweep
from tests.bot.test_health import LIMITS, TROUBLE
from tests.support.bot import OPERATOR, Bench, make_bench
from tests.support.simulated_lxd import SimulatedLxd
from tests.support.sweep import heads, look

ELSEWHERE = LxdError("The bot cannot have the pool `mautic-ops` counted anew: its server is on another machine.")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(sweep, "AGAIN", 0.0)
    made = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    made.lxd.ensure_project(pool_driver="btrfs", pool_size="500GiB", subnet="10.70.0.1/24")
    add_edge(made.lxd)
    made.done("new client-x --plan medium")
    made.slack.said.clear()
    return made


def add_edge(lxd: SimulatedLxd) -> None:
    lxd.create("edge", "base", config=as_labels(role="edge"), devices={})
    lxd.start("edge")


def test_an_uncounted_pool_is_rescanned_within_one_sweep_without_an_incident(bench: Bench) -> None:
    bench.lxd.stop_counting()
    assert look(bench) == []
    assert bench.lxd.quotas("edge") == Quotas("simulated-", True)
    assert look(bench) == []
    assert heads(bench) == []
    (row,) = bench.context.database.read("SELECT detail FROM audit WHERE event = 'quotas.recounted'")
    assert json.loads(row["detail"]) == {"server": "local"}
    bench.lxd.stop_counting()
    assert look(bench) == [], "the next time counts as the first one again"


def test_a_sweep_checks_a_pool_once_and_leaves_one_that_counts_alone(bench: Bench) -> None:
    asked = bench.lxd.calls["quotas"]
    look(bench)
    assert bench.lxd.calls["quotas"] == asked + 1
    assert bench.lxd.calls["recount"] == bench.lxd.calls["root_path"] == 0


def test_where_the_bot_cannot_rescan_a_pool_one_incident_says_how(bench: Bench) -> None:
    bench.lxd.stop_counting()
    bench.lxd.fail_next("recount", ELSEWHERE, 3)
    for _ in range(3):
        assert look(bench) == [("local", "quotas")]
    (incident,) = bench.context.incidents.open()
    assert "`local`" in incident.text
    assert "pool `mautic-ops`" in incident.text
    assert "its server is on another machine. Run `btrfs quota rescan -w /proc/" in incident.text
    assert len(heads(bench)) == 1
    bench.lxd.recount("edge", "simulated-")
    assert look(bench) == [], "somebody has rescanned the pool"


def test_a_pool_that_stays_uncounted_is_reported_at_the_second_sweep(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.lxd.stop_counting()
    monkeypatch.setattr(SimulatedLxd, "recount", lambda *_: None)
    assert look(bench) == []
    assert look(bench) == [("local", "quotas")]
    monkeypatch.undo()
    monkeypatch.setattr(sweep, "AGAIN", 0.0)
    assert look(bench) == [("local", "quotas")]
    assert look(bench) == []


def test_an_unknown_state_of_the_quotas_neither_opens_nor_closes_an_incident(bench: Bench) -> None:
    bench.lxd.stop_counting()
    bench.lxd.fail_next("recount", ELSEWHERE)
    assert look(bench) == [("local", "quotas")]
    bench.lxd.fail_next("quotas", LxdError("LXD could not."))
    assert look(bench) == [("local", "quotas")]
    assert look(bench) == [("local", "quotas")], "it was still not counted, and this sweep had it rescanned"
    assert look(bench) == []


def test_each_host_is_reported_separately(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "AGAIN", 0.0)
    other = SimulatedLxd()
    bench = make_bench(tmp_path, others={"solo": other})
    other.import_image(__file__, "base", {})
    for lxd in (bench.lxd, other):
        add_edge(lxd)
    other.stop_counting()
    other.fail_next("recount", ELSEWHERE)
    assert look(bench) == [("solo", "quotas")]


def test_an_unknown_disk_usage_is_shown_as_such_and_neither_stored_nor_judged(bench: Bench) -> None:
    bench.lxd.fill("client-x", 75 << 30)
    assert look(bench) == [("client-x", "disk")]
    measured = metrics.disks(bench.context.database)["client-x"]
    bench.lxd.stop_counting()
    bench.lxd.fail_next("recount", ELSEWHERE)
    bench.lxd.fill("client-x", 2 << 30)
    assert set(look(bench)) == {("client-x", "disk"), ("local", "quotas")}, "an unmeasured disk is no recovery"
    assert metrics.disks(bench.context.database)["client-x"] == measured
    said = json.dumps(bench.answer("status client-x").blocks)
    assert ":grey_question: *Disk:* usage can't be measured (the kernel has stopped counting" in said
    assert "75.0 GiB" not in said
    with pytest.raises(
        Refused, match=r"measured on local \(the kernel has stopped counting, .*\), so the smaller disk"
    ):
        bench.answer("resize client-x --plan small", OPERATOR)
    digest = json.dumps(bench.answer("digest client-x").blocks)
    assert "disk 75.0 GiB of 80.0 GiB, measured" in digest
    bench.lxd.recount("edge", "simulated-")
    assert look(bench) == []


def test_the_unknown_disk_usage_of_a_suspended_tenant_is_shown_as_such(bench: Bench) -> None:
    bench.done("suspend client-x", OPERATOR)
    bench.lxd.stop_counting()
    said = json.dumps(bench.answer("status client-x").blocks)
    assert ":grey_question: *Disk:* usage can't be measured (the kernel has stopped counting" in said


def test_an_unmeasured_disk_closes_no_incident() -> None:
    full, _ = TROUBLE["disk"]
    for state in ("live", "suspended", "moving"):
        unknown = replace(full, disk=Disk(None, 1, 1), tenant=replace(full.tenant, state=state))
        found = diagnose(unknown, LIMITS)
        assert "disk" not in {one.kind for one in found.findings}
        assert "disk" in found.unseen


def test_doctor_reports_an_uncounted_pool_and_rescans_it(bench: Bench) -> None:
    assert ":white_check_mark: *Quotas:* disk limits enforced on local" in json.dumps(bench.answer("doctor").blocks)
    bench.lxd.stop_counting()
    said = json.dumps(bench.answer("doctor").blocks)
    assert ":x: *Quotas:* The pool `mautic-ops` of `local` was not counted" in said
    assert "disk limits enforced on local" in json.dumps(bench.answer("doctor").blocks)
    bench.lxd.stop_counting()
    bench.lxd.fail_next("recount", ELSEWHERE)
    assert "`btrfs quota rescan -w /proc/" in json.dumps(bench.answer("doctor").blocks)


ONE, TWO = "05a3470d-4a6e-4329-af6a-9882b4503b2e", "48c23673-fd6d-4998-b5f9-5936930ada9f"
TOLD = f"""\
/proc/self/mountinfo:47 27 0:44 /containers/edge/rootfs / rw,relatime - btrfs {{source}} rw,subvolid=5,subvol=/
/proc/self/mountinfo:48 47 0:45 /@home /home rw,relatime - btrfs /dev/sdb rw
{ONE}/qgroups/inconsistent:0
{TWO}/qgroups/inconsistent:1
{TWO}/devices/dm-3/dm/name:vg-pool
{ONE}/devices/loop0/uevent:DEVNAME=loop0
{ONE}/devices/sdb/uevent:DEVNAME=sdb
{TWO}/devices/dm-3/uevent:DEVNAME=dm-3
"""


@pytest.mark.parametrize(
    ("source", "quotas"),
    [
        ("/dev/loop0", Quotas(ONE, True)),
        ("/dev/mapper/vg-pool", Quotas(TWO, False)),
        ("/dev/dm-3", Quotas(TWO, False)),
        (f"/dev/disk/by-uuid/{TWO}", Quotas(TWO, False)),
        ("/dev/sdz", None),
    ],
)
def test_the_pool_is_found_among_the_filesystems_of_a_host(source: str, quotas: Quotas | None) -> None:
    assert btrfs.read(TOLD.format(source=source)) == quotas


def test_the_quotas_are_unknown_where_kernel_or_filesystem_do_not_report_them() -> None:
    assert btrfs.read("") is None
    assert btrfs.read(TOLD.format(source="/dev/loop0").replace("inconsistent", "mode")) is None


@pytest.mark.parametrize("folder", ["/proc", "/proc/0/root"])
def test_a_folder_of_another_filesystem_counts_as_one_on_another_machine(folder: str) -> None:
    with pytest.raises(OSError, match="it is on another machine"):
        btrfs.recount(folder, ONE)
