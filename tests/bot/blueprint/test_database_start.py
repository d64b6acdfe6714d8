"""How the tool starts MariaDB, which on a full disk waits for space instead of failing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.guest.blueprint.mautic_ctl import database
from bot.guest.blueprint.mautic_ctl.system import CtlError

ROOM, NONE = 1 << 30, 0


class Machine:
    """A machine whose systemctl is a script that notes how it was called."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.calls = folder / "systemctl", folder / "calls"
        self.free = [ROOM]

    def systemctl(self, script: str) -> None:
        """Make systemctl run a script, which has the number of its call in `$n`."""
        self.bin.write_text(f'#!/bin/sh\necho "$*" >>{self.calls}\nn=$(wc -l <{self.calls})\n{script}\n')
        self.bin.chmod(0o755)

    def called(self) -> list[str]:
        """Return the words of each call."""
        return self.calls.read_text().splitlines()

    def measure(self, _known: object) -> dict[str, int]:
        """Return the next reading of the free space; the last one stays."""
        return {"free": self.free.pop(0) if len(self.free) > 1 else self.free[0]}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine on which MariaDB answers at once."""
    made = Machine(tmp_path)
    monkeypatch.setattr(database, "SYSTEMCTL", str(made.bin))
    monkeypatch.setattr(database, "SOCKET", tmp_path / "mysqld.sock")
    monkeypatch.setattr(database, "measure", made.measure)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "mysqld.sock"))
        server.listen()
        yield made


def test_a_start_that_waits_for_space_is_told_of_soon(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "FULL_LIMIT", 1)
    machine.systemctl("exec sleep 600")
    machine.free = [NONE]
    with pytest.raises(CtlError, match="its disk is full"):
        database.start_database()
    assert machine.called() == ["start mariadb"]


def test_a_server_that_waits_for_space_is_started_anew_when_there_is_some(machine: Machine) -> None:
    waiting = machine.calls.with_name("pid")
    machine.systemctl(
        f"case $1 in kill) kill $(cat {waiting});; *) test $n -gt 1 || {{ echo $$ >{waiting}; exec sleep 600; }};; esac"
    )
    machine.free = [NONE, ROOM]
    database.start_database()
    assert machine.called() == ["start mariadb", "kill --signal=KILL mariadb", "start mariadb"]


def test_a_server_that_had_waited_and_ended_is_started_once_more(machine: Machine) -> None:
    machine.systemctl("test $n -gt 1 || exit 1")
    database.start_database("restart", beside=["nginx"])
    assert machine.called() == ["restart mariadb nginx", "start mariadb nginx"]


def test_a_server_that_does_not_start_is_told_of_in_systemds_words(machine: Machine) -> None:
    machine.systemctl("echo 'Job for mariadb.service failed.' >&2; exit 1")
    with pytest.raises(CtlError, match=r"MariaDB did not start: Job for mariadb\.service failed\."):
        database.start_database()


def test_nobody_waits_for_a_server_on_a_disk_that_stays_full(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "FULL_LIMIT", 1)
    monkeypatch.setattr(database, "SOCKET", Path("/nowhere"))
    machine.free = [NONE]
    with pytest.raises(CtlError, match="its disk is full"):
        database.await_database()
