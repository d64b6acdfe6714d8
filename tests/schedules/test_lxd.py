"""The bot's own LXD is started again if it died; `tests/bot/test_local_lxd.py` tests how that is found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from schedules.lxd import lxd
from tests.support.bot import make_bench


@pytest.mark.parametrize("endpoint", ["simulated", "/run/own.socket"])
def test_the_bots_own_lxd_is_kept_running_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    asked: list[tuple[Path, str]] = []
    monkeypatch.setattr("bot.lxd.local.server.keep", lambda state, at, _: asked.append((state, at)))
    lxd(make_bench(tmp_path, MAUTIC_OPS_LXD__ENDPOINT=endpoint).context)
    assert asked == [(tmp_path, endpoint)] * (endpoint != "simulated")
