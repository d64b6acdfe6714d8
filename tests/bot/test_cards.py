"""The card of every operation says, in every state, only what is true in that state."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest

from bot.slack.announcer import Announcer
from bot.store.operation import Decision, Operation, State
from tests.support.bot import CASES, LEAD, Bench, make_bench

STATES = [state for state in get_args(State) if state != "waiting"]  # Only a child of a batch has it.
AHEAD = ("awaiting_approval", "queued", "running")


def shown(bench: Bench, operation: Operation) -> str:
    client = None
    announcer = Announcer(client, bench.context.operations, bench.context.renderer, bench.context.settings)  # type: ignore[arg-type]
    return json.dumps(announcer.card(operation).blocks, ensure_ascii=False)


@pytest.fixture(scope="module", params=CASES)
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Operation]:
    """A bench, and the operation as it was asked for there."""
    case = CASES[request.param]
    bench = make_bench(tmp_path_factory.mktemp("cards"), members=case.members)
    case.prepare(bench)
    return bench, bench.ask(case.text, case.actor)


@pytest.mark.parametrize("state", STATES)
def test_a_card_promises_only_what_can_still_happen(asked: tuple[Bench, Operation], state: State) -> None:
    bench, operation = asked
    verdict = "deny" if state == "denied" else "approve"
    decisions = (Decision(LEAD.id, verdict, "", "button", operation.created),)
    begun = state not in ("awaiting_approval", "denied", "expired", "cancelled")
    card = shown(
        bench, replace(operation, state=state, decisions=decisions, started=1.0 if begun else None, ended_by=LEAD.id)
    )
    hopes = (*AHEAD, "succeeded")
    assert (operation.plan["reversible"] in card) == (state in hopes)
    assert ("· takes about" in card) == (state in AHEAD)
    assert ("*Rollback:*" in card) == (state in AHEAD and "Rollback" in operation.plan["facts"])
    assert "Rollback" not in card or state in AHEAD
    for label in operation.plan["remarks"]:
        assert (f"*{label}:*" in card) == (state in AHEAD), "remarks are only for the approval"
    for label in operation.plan["facts"]:
        assert f"*{label}:*" not in card or state in hopes, "the facts did not come true"
    assert (operation.steps[0].title in card) == (state not in ("denied", "expired", "cancelled"))
    assert ("Nothing was changed." in card) == (state in ("denied", "expired", "cancelled"))
