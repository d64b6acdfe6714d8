"""Building a blueprint: what can be tested without a real container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bot.guest.blueprint import build
from bot.guest.blueprint.archive import Archive
from bot.lxd.protocol import LxdError
from tests.support.simulated_lxd import SimulatedLxd


def test_a_failure_at_the_last_step_is_reported_and_leaves_no_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("install_packages", "_furnish", "_install"):
        monkeypatch.setattr(build, part, lambda *_: None)
    lxd = SimulatedLxd()
    lxd.import_image(__file__, "base", {})

    def on_call(method: str, _: tuple[Any, ...]) -> None:
        if method == "rename":
            lxd.fail_next("update", LxdError("LXD could not."))

    lxd.on_call = on_call
    archive = Archive(tmp_path / "mautic.zip", "a" * 64, "5.2.12")
    with pytest.raises(LxdError, match="LXD could not"):
        build.build(lxd, archive, base="base", cache=tmp_path, progress=lambda _: None)
    assert lxd.instances() == []
