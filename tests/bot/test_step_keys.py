"""Words are for people, keys are for code: no decision depends on wording.

`before_keys.json.xz` has databases of the release before step keys (commit ee5ec96), in which `new`, `restore` and
`migrate` were cut off at every step: these tests resume each of them.
"""

from __future__ import annotations

import json
import lzma
import sqlite3
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bot.engine.registry import Registry
from bot.model.labels import KEY
from bot.model.plan import Plan, Refused, Step
from bot.store import audit, before_keys
from bot.store.database import Database
from tests.bot.test_durability import Death, Killed, World, ends_well
from tests.bot.test_durability import test_dying_before_or_after_any_record_does_no_harm as crashes_at_records
from tests.bot.test_durability import test_dying_while_it_is_taken_back_does_no_harm as crashes_while_taken_back
from tests.bot.test_durability import test_dying_within_any_call_of_lxd_does_no_harm as crashes_in_calls
from tests.support.bot import CASES, Bench, containers, live, make_bench

BEFORE = Path(__file__).with_name("before_keys.json.xz")
COMMANDS = ("new", "restore", "migrate")


@cache
def databases() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(lzma.decompress(BEFORE.read_bytes()))
    return found


def lay(folder: Path, name: str) -> None:
    """Replace the database in a folder with one of the older release, and the key of what is encrypted in it."""
    for file in folder.glob("bot.db*"):
        file.unlink()
    kept = databases()[name]
    for key, content in kept["keys"].items():
        (folder / key).write_bytes(bytes.fromhex(content))
    connection = sqlite3.connect(folder / "bot.db")
    connection.executescript(kept["sql"])
    connection.close()


def cuts(command: str) -> list[str]:
    return [name for name in databases() if name.startswith(f"{command}-") and not name.endswith("-waiting")]


@pytest.mark.parametrize("command", COMMANDS)
def test_operations_begun_by_a_release_without_keys_resume_from_every_step(tmp_path: Path, command: str) -> None:
    world = World(tmp_path, command)
    whole = Death(10_000)
    bench = world.begin(whole)
    bench.finish()
    bench.context.database.close()
    moments = [f"{command}-{moment.replace(' ', '-')}" for moment in whole.moments]
    assert len(cuts(command)) == 2 * len(world.operation.steps) + 1
    for name in cuts(command):
        # The fleet is as the operation left it when it was cut off there; the database is the one of the older release.
        bench = world.begin(Death(moments.index(name)))
        with pytest.raises(Killed):
            bench.finish()
        bench.context.database.close()
        for one in bench.lxd.instances():
            # The older release wrote only a text about why a container was retired.
            bench.lxd.update(one.name, {f"{KEY}replaced-by": None, f"{KEY}replaced-in": None})
        lay(tmp_path / str(world.copies), name)
        ends_well(world, world.restart(bench), name)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_request_that_waited_for_approval_before_there_were_keys_can_be_approved(
    tmp_path: Path, command: str
) -> None:
    bench = waiting(tmp_path, command)
    (operation,) = bench.context.operations.select("state = 'awaiting_approval'")
    assert operation.mark.endswith(operation.fingerprint[:8]), "its card is in Slack, with this mark on its buttons"
    bench.approve(operation)
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "succeeded"
    assert (containers(bench), live(bench)) == (CASES[command].after, True)
    assert not audit.verify(bench.context.database).broken


def waiting(folder: Path, command: str, **environment: str) -> Bench:
    """Return a bench with a database of the older release, in which an operation waits for approval."""
    case = CASES[command]
    made = make_bench(folder / "prepared", members=case.members)
    case.prepare(made)
    made.context.database.close()
    lay(folder / "prepared", f"{command}-waiting")
    return make_bench(folder / "prepared", made.lxd, **environment)


@pytest.mark.parametrize("command", COMMANDS)
def test_changes_since_a_request_of_the_older_release_are_detected(tmp_path: Path, command: str) -> None:
    bench = waiting(tmp_path, command, MAUTIC_OPS_RETENTION__FORMER_DAYS="3")
    plans = bench.context.settings.plans
    plans["small"] = replace(plans["small"], cpu=7)  # type: ignore[index]
    (operation,) = bench.context.operations.select("state = 'awaiting_approval'")
    with pytest.raises(Refused, match="would now do something else"):
        bench.approve(operation)


def test_steps_of_the_older_release_get_keys_and_a_passed_commit_point_is_known(tmp_path: Path) -> None:
    for name, committed in (("restore-started-2", 0), ("restore-recorded-2", 1), ("restore-recorded-3", 1)):
        folder = tmp_path / name
        folder.mkdir()
        lay(folder, name)
        database = Database(folder / "bot.db")
        rows = database.read("SELECT key FROM steps WHERE operation = 3 ORDER BY position")
        assert [row["key"] for row in rows] == ["beside", "change", "probe", "keep"]
        assert database.read("SELECT committed FROM operations WHERE id = 3")[0]["committed"] == committed, name
        taken = database.read("SELECT count(*) AS n FROM snapshots_of_tenants")[0]["n"]
        assert taken == 2, "one by `snapshot`, one by `restore`"
        assert not audit.verify(database).broken
        database.close()


def test_the_cause_of_a_rollback_that_the_older_release_began_is_known(tmp_path: Path) -> None:
    lay(tmp_path, "restore-started-1")
    connection = sqlite3.connect(tmp_path / "bot.db")
    told = "LXD could not. What it had begun could not be taken back: it is silent."
    connection.execute("UPDATE operations SET undo_by = 'system', outcome = ? WHERE id = 3", (told,))
    connection.execute("UPDATE operations SET undo_by = 'system', outcome = 'No room.' WHERE id = 2")
    connection.commit()
    connection.close()
    database = Database(tmp_path / "bot.db")
    rows = database.read("SELECT cause FROM operations ORDER BY id")
    assert [row["cause"] for row in rows] == ["", "No room.", "LXD could not."]
    database.close()


@pytest.mark.parametrize("text", ["Restart its worker", "Remove 12 snapshots", "Remove 1 snapshot", *before_keys.KEYS])
def test_every_step_title_of_the_older_release_has_a_key(text: str) -> None:
    assert before_keys.key_of(text)


@pytest.fixture
def reworded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewords every title, label and sentence of a plan, differently each time that the plan is made."""
    plan, count = Registry.plan, iter(range(10**9))

    def other(text: str) -> str:
        return f"Umformuliert {next(count)} {text[::-1]}"

    def said_otherwise(self: Registry, *arguments: Any) -> Plan:
        made = plan(self, *arguments)
        return replace(
            made,
            summary=other(made.summary),
            facts={other(label): other(value) for label, value in made.facts.items()},
            remarks={other(label): other(value) for label, value in made.remarks.items()},
            reversible=other(made.reversible),
            steps=tuple(replace(step, title=other(step.title)) for step in made.steps),
        )

    monkeypatch.setattr(Registry, "plan", said_otherwise)


@pytest.mark.usefixtures("reworded")
@pytest.mark.parametrize("command", sorted(CASES))
def test_rewording_everything_changes_no_decision(tmp_path: Path, command: str) -> None:
    crashes_at_records(tmp_path / "records", command)


@pytest.mark.usefixtures("reworded")
@pytest.mark.parametrize("command", COMMANDS)
def test_rewording_everything_changes_nothing_after_a_crash(tmp_path: Path, command: str) -> None:
    crashes_in_calls(tmp_path / "calls", command, "the answer")
    crashes_while_taken_back(tmp_path / "back", command)


def test_step_keys_are_unique_and_the_commit_point_is_one_of_them() -> None:
    step = Step("a", "Do it", lambda: None)
    plan = Plan("x", {}, "", {}, (step,), reversible="", seconds=1)
    with pytest.raises(ValueError, match="same key"):
        replace(plan, steps=(step, step))
    with pytest.raises(ValueError, match="commit point"):
        replace(plan, commit="b")
    assert replace(plan, facts={"A": "b"}, summary="c", reversible="d").fingerprint() == plan.fingerprint()
    assert replace(plan, values={"a": 1}).fingerprint() != plan.fingerprint()
    assert replace(plan, steps=(replace(step, key="b"),)).fingerprint() != plan.fingerprint()
