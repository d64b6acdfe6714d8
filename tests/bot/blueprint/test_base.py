"""Debian's images in their cache: put together once, whoever needs them first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bot.guest.blueprint import base
from tests.support.simulated_lxd import SimulatedLxd


def test_they_are_put_together_once_and_imported_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = 0

    def build(cache: Path, progress: Callable[[str], None]) -> None:
        nonlocal built
        built += 1
        for kind in ("tenant", "edge"):
            (cache / f"{base._alias(kind)}.tar.zst").write_bytes(kind.encode())

    monkeypatch.setattr(base, "_build", build)
    told: list[str] = []
    lxd = SimulatedLxd()
    for _ in range(2):
        base.prepare(tmp_path, told.append)
        assert lxd.image(base.ensure_base(lxd, "edge", tmp_path, told.append))
    assert (built, told) == (1, ["importing the edge image"])
