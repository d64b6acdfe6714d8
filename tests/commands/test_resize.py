"""`/mautic resize` of a tenant whose plan was removed or changed in the settings: its container says what it has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.guest.mautic import Mautic
from bot.lxd.protocol import LxdError
from bot.model.labels import label_of
from bot.model.plan import NoSpace, Refused
from bot.model.tenants import PlanSize
from bot.store import recovery
from tests.support.bot import OPERATOR, Bench, make_bench, notes


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a bench with a tenant of the plan medium, of 8 GiB, which was then removed from the settings."""
    made = make_bench(tmp_path)
    assert made.done("new client-x --plan medium").state == "succeeded"
    plans: Any = made.context.settings.plans
    del plans["medium"]
    return made


class Inside:
    """Records what is asked of the tenant's MariaDB; `fails`: the numbers of the calls that fail, from 1.

    `seen`: for each call, the container's memory limit at that moment and the size of the buffer pool.
    """

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, str]] = []
        self.fails: set[int] = set()
        resize = Mautic.resize

        def asked(mautic: Mautic, instance: str, size: PlanSize) -> None:
            self.seen.append((bench.lxd.instance(instance).config["limits.memory"], size.innodb_buffer_pool))
            if len(self.seen) in self.fails:
                raise LxdError("MariaDB did not come back.")
            resize(mautic, instance, size)

        monkeypatch.setattr(Mautic, "resize", asked)


@pytest.fixture
def inside(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Inside:
    return Inside(bench, monkeypatch)


def what_it_has(bench: Bench) -> tuple[str, ...]:
    instance = bench.lxd.instance("client-x")
    limits = (instance.config[f"limits.{name}"] for name in ("cpu", "memory", "processes"))
    return label_of(instance.config, "plan"), *limits, instance.devices["root"]["size"]


def test_mariadb_gives_memory_back_before_the_limit_is_lowered(bench: Bench, inside: Inside) -> None:
    asked = bench.ask("resize client-x --plan small", OPERATOR)
    assert asked.plan["summary"] == "Resize tenant client-x from medium to small"
    assert asked.plan["remarks"] == {"Before": "medium: 4 CPUs, 8 GiB memory, 80 GiB disk"}
    bench.approve(asked)
    bench.finish()
    assert bench.context.operations.get(asked.id).state == "succeeded"
    assert inside.seen == [("8GiB", "768M"), ("3GiB", "768M")]


def test_a_changed_plan_in_the_settings_does_not_count(bench: Bench, inside: Inside) -> None:
    plans: Any = bench.context.settings.plans
    plans["medium"] = replace(plans["small"], memory="2GiB")
    assert bench.done("resize client-x --plan small", OPERATOR).state == "succeeded"
    assert inside.seen[0] == ("8GiB", "768M")


@pytest.mark.parametrize("memory", ["8GiB", "", "50%"])
def test_a_stopped_tenant_gets_no_less_memory(bench: Bench, memory: str) -> None:
    bench.done("stop client-x", OPERATOR)
    bench.lxd.update("client-x", {"limits.memory": memory})
    with pytest.raises(Refused, match="is stopped, so its memory cannot be reduced"):
        bench.answer("resize client-x --plan small", OPERATOR)


def test_growth_is_refused_where_the_host_lacks_memory_for_it(bench: Bench) -> None:
    assert bench.answer("resize client-x --plan large", OPERATOR).demand["plan"] == 24 << 30
    bench.context.fleet.fresh = 0
    bench.lxd.memory_of = lambda _: 480 << 30
    with pytest.raises(NoSpace, match="`client-x` cannot grow on `local`"):
        bench.answer("resize client-x --plan large", OPERATOR)


@pytest.mark.parametrize(
    ("plan", "failing", "last"),
    [
        # The sizes of medium are no longer known: MariaDB gets the same share of memory as in small.
        ("small", 1, ("8GiB", "2048M")),
        ("small", 2, ("8GiB", "2048M")),
        # The limit is lowered after MariaDB has given the memory back.
        ("large", 1, ("24GiB", "2048M")),
    ],
)
def test_a_failed_resize_leaves_limits_and_disk_as_they_were(
    bench: Bench, inside: Inside, plan: str, failing: int, last: tuple[str, str]
) -> None:
    bench.lxd.update("client-x", {"limits.cpu": "0-2"})
    inside.fails = {failing}
    ended = bench.done(f"resize client-x --plan {plan}", OPERATOR)
    assert (ended.state, ended.outcome) == ("failed", "MariaDB did not come back.")
    assert what_it_has(bench) == ("medium", "0-2", "8GiB", "4000", "80GiB")
    assert inside.seen[-1] == last
    assert "rolled back" in notes(bench, ended)[-1]


def test_a_failed_resize_whose_plan_stored_no_limits_says_what_it_leaves(bench: Bench, inside: Inside) -> None:
    """An earlier release stored no limits."""

    def forget(moment: str) -> None:
        if moment == "started 1":
            with bench.context.database.transaction() as transaction:
                transaction.execute("UPDATE operations SET plan = json_remove(plan, '$.inputs.limits')")
            raise KeyboardInterrupt

    bench.runner.fault = forget
    operation = bench.approve(bench.ask("resize client-x --plan small", OPERATOR))
    with pytest.raises(KeyboardInterrupt):
        bench.finish()
    bench.runner.fault = lambda moment: None
    inside.fails = {2}
    recovery.recover(bench.context.operations)
    bench.finish()
    ended = bench.context.operations.get(operation.id)
    assert ended.state == "failed"
    assert "client-x keeps the plan small, as medium is no longer in the settings" in notes(bench, ended)[-1]
    assert what_it_has(bench)[0] == "small"
