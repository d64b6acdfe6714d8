"""`/mautic new`, over a simulated LXD."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.plan import Refused
from tests.support.bot import LEAD, make_bench


def test_an_approved_request_becomes_a_live_tenant(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    operation = bench.done("new client-x --note 'spring campaign'")
    assert operation.state == "succeeded", operation.outcome
    tenant = bench.context.fleet.tenant("client-x")
    assert (tenant.domain, tenant.plan, tenant.note) == ("client-x.mautic.localhost", "small", "spring campaign")
    assert bench.context.edge.probe(tenant.domain).login


def test_a_taken_name_is_refused(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    with pytest.raises(Refused, match="already"):
        bench.ask("new client-x", LEAD)
