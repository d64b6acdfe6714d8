"""A pool whose kernel has stopped counting: no figure is shown as true, and it is counted anew, or told of once."""

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


def test_it_is_counted_anew_within_one_sweep_and_nobody_is_troubled(bench: Bench) -> None:
    bench.lxd.stop_counting()
    assert look(bench) == []
    assert bench.lxd.quotas("edge") == Quotas("simulated-", True)
    assert look(bench) == []
    assert heads(bench) == []
    (row,) = bench.context.database.read("SELECT detail FROM audit WHERE event = 'quotas.recounted'")
    assert json.loads(row["detail"]) == {"server": "local"}
    bench.lxd.stop_counting()
    assert look(bench) == [], "the next time is the first one again"


def test_a_sweep_asks_once_and_a_pool_that_counts_is_left_alone(bench: Bench) -> None:
    asked = bench.lxd.calls["quotas"]
    look(bench)
    assert bench.lxd.calls["quotas"] == asked + 1
    assert bench.lxd.calls["recount"] == bench.lxd.calls["root_path"] == 0


def test_where_the_bot_cannot_a_person_is_told_once_and_how(bench: Bench) -> None:
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
    assert look(bench) == [], "somebody has done it"


def test_what_stays_so_is_told_at_the_second_sweep(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.lxd.stop_counting()
    monkeypatch.setattr(SimulatedLxd, "recount", lambda *_: None)
    assert look(bench) == []
    assert look(bench) == [("local", "quotas")]
    monkeypatch.undo()
    monkeypatch.setattr(sweep, "AGAIN", 0.0)
    assert look(bench) == [("local", "quotas")]
    assert look(bench) == []


def test_what_nobody_can_tell_neither_opens_nor_closes(bench: Bench) -> None:
    bench.lxd.stop_counting()
    bench.lxd.fail_next("recount", ELSEWHERE)
    assert look(bench) == [("local", "quotas")]
    bench.lxd.fail_next("quotas", LxdError("LXD could not."))
    assert look(bench) == [("local", "quotas")]
    assert look(bench) == [("local", "quotas")], "it was still not counted, and this look had it done"
    assert look(bench) == []


def test_each_host_is_told_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "AGAIN", 0.0)
    other = SimulatedLxd()
    bench = make_bench(tmp_path, others={"solo": other})
    other.import_image(__file__, "base", {})
    for lxd in (bench.lxd, other):
        add_edge(lxd)
    other.stop_counting()
    other.fail_next("recount", ELSEWHERE)
    assert look(bench) == [("solo", "quotas")]


def test_an_unknown_figure_is_shown_as_such_kept_nowhere_and_judged_by_nobody(bench: Bench) -> None:
    bench.lxd.fill("client-x", 75 << 30)
    assert look(bench) == [("client-x", "disk")]
    measured = metrics.disks(bench.context.database)["client-x"]
    bench.lxd.stop_counting()
    bench.lxd.fail_next("recount", ELSEWHERE)
    bench.lxd.fill("client-x", 2 << 30)
    assert set(look(bench)) == {("client-x", "disk"), ("local", "quotas")}, "that nothing is measured is no recovery"
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


def test_of_a_suspended_tenant_too(bench: Bench) -> None:
    bench.done("suspend client-x", OPERATOR)
    bench.lxd.stop_counting()
    said = json.dumps(bench.answer("status client-x").blocks)
    assert ":grey_question: *Disk:* usage can't be measured (the kernel has stopped counting" in said


def test_that_nothing_is_measured_closes_no_incident() -> None:
    full, _ = TROUBLE["disk"]
    for state in ("live", "suspended", "moving"):
        unknown = replace(full, disk=Disk(None, 1, 1), tenant=replace(full.tenant, state=state))
        found = diagnose(unknown, LIMITS)
        assert "disk" not in {one.kind for one in found.findings}
        assert "disk" in found.unseen


def test_the_doctor_says_it_and_mends_it(bench: Bench) -> None:
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


def test_a_kernel_or_a_filesystem_that_does_not_tell_is_unknown() -> None:
    assert btrfs.read("") is None
    assert btrfs.read(TOLD.format(source="/dev/loop0").replace("inconsistent", "mode")) is None


@pytest.mark.parametrize("folder", ["/proc", "/proc/0/root"])
def test_what_is_not_that_filesystem_is_taken_to_be_elsewhere(folder: str) -> None:
    with pytest.raises(OSError, match="it is on another machine"):
        btrfs.recount(folder, ONE)
