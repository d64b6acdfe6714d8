"""People take turns: a new request waits for one of each other person's, however many they have waiting."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.model.turns import Turns, in_turn
from bot.store import claims, recovery
from tests.support.bot import LEAD, LEAD_2, OPERATOR, make_bench


def test_everybodys_first_item_comes_before_anybodys_second() -> None:
    assert in_turn(["a1", "a2", "a3", "b1", "b2", "c1"], lambda one: one[0]) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert in_turn(["a1", "b1"], lambda one: one[0], {"a": 2}) == ["b1", "a1"]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers()), max_size=40), st.integers(1, 4))
def test_no_item_is_lost_and_nobody_has_more_in_hand_than_allowed(sent: list[tuple[str, int]], at_once: int) -> None:
    turns: Turns[tuple[str, int]] = Turns(at_once)
    for person, number in sent:
        turns.add(person, (person, number))
    taken: list[tuple[str, int]] = []
    in_hand: list[str] = []
    while len(taken) < len(sent):
        if (found := turns.take()) is not None:
            in_hand.append(found[0])
            taken.append(found[1])
            assert in_hand.count(found[0]) <= at_once
        else:
            assert in_hand, "when nothing is in hand, it is somebody's turn"
            turns.done(in_hand.pop(0))
    for person in "abcd":
        assert [one for one in taken if one[0] == person] == [one for one in sent if one[0] == person]


def test_an_operation_waits_for_at_most_one_of_each_other_person(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    for number in range(8):
        bench.approve(bench.ask(f"new many-{number}", OPERATOR), LEAD)
    bench.approve(bench.ask("new theirs", LEAD_2), LEAD)
    running = claims.claim(bench.context.operations)
    assert running
    assert running.tenant == "many-0"
    assert bench.runner.run_one()
    assert bench.context.operations.select("state = 'succeeded'")[0].tenant == "theirs"


def test_an_interrupted_operation_goes_on_before_all_others(tmp_path: Path) -> None:
    def die(moment: str) -> None:
        if moment == "recorded 1":
            raise KeyboardInterrupt

    bench = make_bench(tmp_path, fault=die)
    other = bench.ask("new other", LEAD_2)
    cut = bench.approve(bench.ask("new cut", OPERATOR), LEAD)
    with pytest.raises(KeyboardInterrupt):
        bench.runner.run_one()
    again = make_bench(tmp_path, bench.lxd, slack=bench.slack)
    again.approve(other, LEAD)
    with again.context.database.transaction() as transaction:
        # Make the other one an older operation of the same person.
        transaction.execute("UPDATE operations SET requester = ? WHERE id = ?", (OPERATOR.id, other.id))
    recovery.recover(again.context.operations)
    assert again.runner.run_one()
    assert again.context.operations.get(cut.id).state == "succeeded"
    assert again.context.operations.get(other.id).state == "queued"
