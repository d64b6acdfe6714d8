"""`/mautic tag`: words by which tenants can be chosen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bot.model.labels import label_of
from bot.model.plan import Refused, UnknownWords
from tests.support.bot import OPERATOR, Bench, make_bench, make_desk


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = make_bench(tmp_path)
    assert made.done("new client-x").state == "succeeded"
    return made


def test_the_given_words_replace_the_tags(bench: Bench) -> None:
    assert bench.done("tag client-x VIP eu, vip", OPERATOR).state == "succeeded"
    assert bench.context.fleet.tenant("client-x").tags == ("vip", "eu")
    assert label_of(bench.lxd.instance("client-x").config, "tags") == "vip eu"
    done = bench.done("tag client-x us", OPERATOR)
    assert bench.context.fleet.tenant("client-x").tags == ("us",)
    assert done.again == "tag client-x us"


def test_the_list_can_be_filtered_by_tag(bench: Bench) -> None:
    bench.done("new client-y")
    bench.done("tag client-x vip eu", OPERATOR)
    desk = make_desk(bench)
    desk.command("list --tag VIP", OPERATOR)
    shown = desk.slack.to(OPERATOR.id)[-1]
    assert "*1 tenant*, 1 healthy, tagged `vip`" in shown
    assert "client-y" not in shown
    desk.command("list y --tag vip", OPERATOR)
    assert "No tenant matching `y` has the tag `vip`." in desk.slack.to(OPERATOR.id)[-1]


def test_without_words_the_tags_are_shown_and_they_can_be_cleared(bench: Bench) -> None:
    desk = make_desk(bench)
    desk.command("tag client-x", OPERATOR)
    assert "`client-x` has no tags. Add one: `/mautic tag client-x vip`" in desk.slack.to(OPERATOR.id)[-1]
    bench.done("tag client-x vip eu", OPERATOR)
    desk.command("tag client-x", OPERATOR)
    assert "`client-x` has tags `vip`, `eu`" in desk.slack.to(OPERATOR.id)[-1]
    assert len(bench.context.operations.select("command = 'tag'")) == 1, "showing them changes nothing"
    bench.done("tag client-x --clear", OPERATOR)
    assert bench.context.fleet.tenant("client-x").tags == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tag client-x no/slash", "can't be a tag"),
        ("tag client-x " + "x" * 31, "can't be a tag"),
        ("tag client-x vip --clear", "Give either tags or `--clear`"),
        ("tag client-x " + " ".join(f"t{number}" for number in range(11)), "at most 10"),
        ("tag client-y vip", "There is no tenant `client-y`"),
    ],
)
def test_what_cannot_be_a_tag_is_refused(bench: Bench, text: str, why: str) -> None:
    with pytest.raises((Refused, UnknownWords), match=re.escape(why)):
        bench.answer(text, OPERATOR)
