"""What a killed bot left is deleted: on servers by a job, in a tenant by `mautic-ctl` at its next call."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.guest.blueprint.mautic_ctl import main as tool
from bot.lxd.protocol import LxdUnavailable
from schedules.sweep import sweep
from tests.support.bot import make_bench


def test_every_server_is_swept_even_if_one_is_silent(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.context.fleet.servers["another"] = bench.lxd
    bench.lxd.fail_next("sweep", LxdUnavailable("LXD does not answer."))
    with pytest.raises(LxdUnavailable):
        sweep(bench.context)
    assert bench.lxd.calls["sweep"] == 2


def test_the_next_call_deletes_the_request_files_of_a_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "mautic-ctl.lock"
    monkeypatch.setattr(tool, "LOCK", lock)
    for name in ("mautic-ctl.lock", "mautic-ctl.identity", "mautic-ctl.identity.in", "other.in"):
        (tmp_path / name).write_text("the password")

    class Wire:
        told: object = None

        def tell(self, answer: object) -> None:
            self.told = answer

        def until_heard(self) -> None:
            pass

    wire = Wire()
    tool.main("unknown", b"{}", wire)  # type: ignore[arg-type]
    assert wire.told == {"ok": False, "error": "there is no verb unknown"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mautic-ctl.lock", "other.in"]
