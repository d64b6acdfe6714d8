"""What the bot relies on in Mautic, checked in a clone of the blueprint: of the double, or of a real Mautic."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bot.lxd.gateway import LxdGateway
from tests.lab.conftest import Clone
from tests.mautic_double.contract import CONTRACT, DOUBLE_CONTRACT, INSTALL_CONTRACT, Execute


@pytest.fixture(scope="module")
def execute(host: LxdGateway, clone: Callable[..., Clone]) -> Execute:
    """Runs programs in one open tenant, which the last checks leave broken."""
    tenant = clone()

    def run(argv: list[str]) -> tuple[int, str, str]:
        ended = host.execute(tenant.name, argv, timeout=120)
        return ended.code, ended.stdout, ended.stderr

    return run


@pytest.mark.parametrize("check", [*CONTRACT, *DOUBLE_CONTRACT, *INSTALL_CONTRACT], ids=lambda check: check.__name__)
def test_mautic_keeps_the_contract(check: Callable[[Execute], None], execute: Execute) -> None:
    check(execute)
