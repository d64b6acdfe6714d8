"""`/mautic refurnish`: tenants with the files of an earlier version are reported, and brought up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.guest import simulated as simulated_tenant
from bot.guest.blueprint.recipe import FURNITURE
from bot.lxd.protocol import LxdError
from bot.model.labels import as_labels, label_of
from bot.model.plan import Refused
from bot.reports.digest import gather
from tests.support.bot import OPERATOR, Bench, make_bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a bench with three tenants, two of which are as an earlier version of the bot made them."""
    made = make_bench(tmp_path)
    for name in ("client-x", "client-y", "client-z"):
        assert made.done(f"new {name}").state == "succeeded"
    for name in ("client-x", "client-y"):
        made.lxd.update(name, {"user.mautic-ops.furniture": None, "user.mautic-ops.slot": None})
    return made


def test_outdated_tenants_are_reported_until_they_are_refurnished(bench: Bench) -> None:
    def told() -> list[bool]:
        shown = [bench.answer(text, OPERATOR).text for text in ("status client-x", "hosts")]
        return ["files" in text and "out of date" in text for text in shown]

    assert told() == [True, True]
    assert gather(bench.context, 0).behind == ("client-x", "client-y")
    bench.done("refurnish client-x", OPERATOR)
    bench.done("refurnish client-y", OPERATOR)
    assert told() == [False, False]
    assert gather(bench.context, 0).behind == ()


def test_all_outdated_tenants_are_refurnished_at_once_and_the_others_left_out(bench: Bench) -> None:
    plan = bench.answer("refurnish --all", OPERATOR)
    assert [child.tenant for child in plan.children] == ["client-x", "client-y"]
    assert "client-z" in plan.remarks["Left out"]
    assert bench.done("refurnish --all", OPERATOR).state == "succeeded"
    slots = set()
    for name in ("client-x", "client-y"):
        config = bench.lxd.instance(name).config
        assert label_of(config, "furniture") == str(FURNITURE)
        slots.add(label_of(config, "slot"))
    assert len(slots) == 2
    with pytest.raises(Refused, match="None of the selected tenants"):
        bench.answer("refurnish --all", OPERATOR)


def test_the_card_says_if_only_the_slot_is_missing(bench: Bench) -> None:
    def files(name: str) -> object:
        return bench.ask(f"refurnish {name}", OPERATOR).plan["remarks"]["Files"]

    assert files("client-x") == f"version 1, then {FURNITURE}"
    bench.lxd.update("client-y", as_labels(furniture=FURNITURE))
    assert files("client-y") == f"version {FURNITURE}; its heavy jobs get a time of their own on the host"


def test_a_tenant_keeps_its_slot(bench: Bench) -> None:
    bench.lxd.update("client-x", as_labels(slot=7))
    bench.done("refurnish client-x", OPERATOR)
    assert label_of(bench.lxd.instance("client-x").config, "slot") == "7"
    asked = bench.lxd.pull("client-x", "/var/lib/mautic-ops/furnish.json")
    assert b'"slot": 7' in asked or b'"slot":7' in asked


@pytest.mark.parametrize(("ends", "why"), [("stop client-x", "is stopped"), ("suspend client-x", "is suspended")])
def test_only_a_running_tenant_is_refurnished(bench: Bench, ends: str, why: str) -> None:
    bench.done(ends, OPERATOR)
    with pytest.raises(Refused, match=f"{why}.*`/mautic (start|resume) client-x` first"):
        bench.answer("refurnish client-x", OPERATOR)


def test_the_files_are_put_back_if_the_page_does_not_answer_afterwards(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> str:
        raise LxdError("The login page did not answer.")

    monkeypatch.setattr("commands.refurnish.see_login_page", refuse)
    ended = bench.done("refurnish client-x", OPERATOR)
    assert ended.state == "failed", ended.outcome
    assert label_of(bench.lxd.instance("client-x").config, "furniture") == "1"
    assert simulated_tenant.read(bench.lxd, "client-x").furnished == (0, 0)
    monkeypatch.undo()
    assert bench.done("refurnish client-x", OPERATOR).state == "succeeded"
