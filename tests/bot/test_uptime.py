"""Elapsed time is counted whatever the clock is set to, and over every start."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from bot.store.database import Database
from bot.store.uptime import EVEN, LOOK_AGAIN, Uptime, ticks

HOUR, DAY = 3600.0, 86_400.0


class Machine:
    """A machine whose wall clock can be set and whose kernel clock cannot; it can reboot, and the bot can restart."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / "bot.db")
        self.wall, self.since_boot, self.boot = 1_800_000_000.0, 500.0, 1
        self.true = 0.0
        """Seconds for which the machine was on, with or without the bot."""
        self.restart()

    def restart(self) -> None:
        self.uptime = Uptime(self.database, lambda: self.wall, lambda: (str(self.boot), self.since_boot))
        self.uptime.now()

    def move(self, seconds: float) -> None:
        self.wall, self.since_boot, self.true = self.wall + seconds, self.since_boot + seconds, self.true + seconds

    def reboot(self, away: float) -> None:
        self.uptime.note()
        self.wall, self.since_boot, self.boot = self.wall + away, 20.0, self.boot + 1
        self.restart()


def test_time_counts_over_restarts_of_the_bot_and_not_while_the_machine_is_off(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.move(HOUR)
    machine.uptime.note()
    machine.move(DAY)
    machine.restart()
    assert machine.uptime.now() == HOUR + DAY, "the bot was down, the machine was not"
    machine.reboot(away=30 * DAY)
    machine.move(60)
    assert machine.uptime.now() == HOUR + DAY + 60


def test_setting_the_clock_ahead_adds_no_elapsed_time(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.move(DAY)
    stamp = machine.wall
    machine.wall += 40 * DAY
    machine.move(HOUR)
    assert machine.uptime.now() == DAY + HOUR
    assert not stamp <= machine.uptime.before(2 * HOUR)
    assert stamp <= machine.uptime.before(HOUR)
    assert machine.uptime.before(30 * DAY) == -math.inf


def test_a_moment_that_a_clock_ahead_recorded_counts_with_its_true_age(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.move(DAY)
    machine.wall += 40 * DAY
    machine.move(HOUR)
    stamp = machine.wall
    machine.move(HOUR)
    machine.uptime.note()
    machine.wall -= 40 * DAY
    machine.move(50 * DAY)
    machine.restart()
    assert not stamp <= machine.uptime.before(30 * DAY), "the wall clock has to show this age as well"
    machine.move(22 * DAY)
    assert stamp <= machine.uptime.before(30 * DAY)


def test_a_step_of_the_clock_is_known_with_its_size_and_age(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.uptime.step() == (0.0, math.inf)
    machine.move(HOUR)
    machine.uptime.note()
    machine.wall -= 7 * HOUR
    machine.move(60)
    assert not machine.uptime.is_steady()
    step, ago = machine.uptime.step()
    assert (round(step), round(ago)) == (-7 * HOUR, 60)
    machine.uptime.note()
    machine.restart()
    assert machine.uptime.step()[0] == -7 * HOUR
    machine.move(LOOK_AGAIN)
    assert machine.uptime.is_steady()


def test_a_finding_is_confirmed_only_after_hours_in_which_every_look_has_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.uptime.confirmed("purge", {"a", "b"}) == set()
    machine.move(LOOK_AGAIN - 1)
    assert machine.uptime.confirmed("purge", {"a"}) == set()
    machine.move(1)
    assert machine.uptime.confirmed("expiry", set()) == set(), "each kind counts for itself"
    assert machine.uptime.confirmed("purge", {"a", "b"}) == {"a"}
    machine.uptime.note()
    machine.restart()
    machine.move(LOOK_AGAIN)
    assert machine.uptime.confirmed("purge", {"a", "b"}) == {"a", "b"}


def test_the_kernel_reports_the_id_of_its_boot_and_a_time_that_grows() -> None:
    boot, at = ticks()
    again, later = ticks()
    assert boot == again
    assert len(boot) == 36
    assert 0 < at <= later


steps = st.one_of(
    st.tuples(st.just("move"), st.floats(1, 20 * DAY)),
    st.tuples(st.just("set"), st.floats(-50 * DAY, 50 * DAY)),
    st.tuples(st.just("reboot"), st.floats(0, 50 * DAY)),
    st.tuples(st.just("restart"), st.just(0.0)),
    st.tuples(st.just("stamp"), st.just(0.0)),
)


@given(st.lists(steps, max_size=30), st.floats(HOUR, 60 * DAY))
def test_whatever_happens_to_the_clock_nothing_counts_as_older_than_it_is(
    did: list[tuple[str, float]], age: float
) -> None:
    with TemporaryDirectory() as folder:
        machine = Machine(Path(folder))
        stamps: list[tuple[float, float]] = []
        for what, seconds in did:
            if what == "stamp":
                stamps.append((machine.wall, machine.true))
            elif what == "set":
                machine.wall += seconds
            else:
                getattr(machine, what)(*[seconds] * (what != "restart"))
            # A job saves the count every few seconds.
            machine.uptime.note()
            told = machine.uptime.before(age)
            for wall, true in stamps:
                if wall <= told:
                    assert machine.true - true >= age - EVEN
        machine.database.close()
