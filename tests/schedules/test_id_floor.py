"""A database that is behind the fleet gives no operation number twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.model.labels import as_labels
from bot.store.migrations import MAINTENANCE
from schedules.id_floor import id_floor
from tests.support.bot import OPERATOR, make_bench


def test_a_restore_works_after_the_database_was_lost(tmp_path: Path) -> None:
    before = make_bench(tmp_path / "before")
    before.done("new client-x")
    before.done("snapshot client-x", OPERATOR)
    (snapshot,) = before.lxd.snapshots("client-x")
    assert before.done(f"restore client-x {snapshot.name}", OPERATOR).id == 3

    after = make_bench(tmp_path / "after", before.lxd)
    id_floor(after.context)
    done = after.done(f"restore client-x {snapshot.name}", OPERATOR)
    assert (done.id, done.state) == (4, "succeeded")
    assert after.context.fleet.tenant("client-x").instance == "client-x--4"


def test_a_database_that_is_not_behind_continues_its_numbers(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    bench.done("snapshot client-x", OPERATOR)
    id_floor(bench.context)
    assert bench.ask("stop client-x", OPERATOR).id == 3


@pytest.mark.parametrize("digits", ["20261201", "1764500000", "202612011530"])
def test_the_digits_in_the_name_of_a_manual_copy_are_no_operation_number(tmp_path: Path, digits: str) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    bench.lxd.copy("client-x", f"client-x-{digits}", config={}, devices={})
    id_floor(bench.context)
    assert bench.ask("new client-z").id == 2


def test_maintenance_numbers_neither_raise_nor_hide_those_of_people(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    bench.lxd.update("client-x", as_labels(operation=MAINTENANCE + 70, stopped_by=40))
    id_floor(bench.context)
    assert bench.ask("stop client-x", OPERATOR).id == 41
    last = dict(map(tuple, bench.context.database.read("SELECT kind, last FROM numbers")))
    assert last["maintenance"] == MAINTENANCE + 70
