"""What the bot relies on in a Mautic, held against the one in the blueprint: the double, or a real one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bot.lxd.gateway import LxdGateway
from tests.lab.conftest import Clone
from tests.mautic_double.contract import CONTRACT, DOUBLE_CONTRACT, INSTALL_CONTRACT, Execute


@pytest.fixture(scope="module")
def execute(host: LxdGateway, clone: Callable[..., Clone]) -> Execute:
    """Runs programs in one open tenant, which the last checks leave in pieces."""
    tenant = clone()

    def run(argv: list[str]) -> tuple[int, str, str]:
        ended = host.execute(tenant.name, argv, timeout=120)
        return ended.code, ended.stdout, ended.stderr

    return run


@pytest.mark.parametrize("check", [*CONTRACT, *DOUBLE_CONTRACT, *INSTALL_CONTRACT], ids=lambda check: check.__name__)
def test_mautic(check: Callable[[Execute], None], execute: Execute) -> None:
    check(execute)
