"""`/mautic purge` never reads like, nor is, the removal of the live client."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.model.labels import as_labels
from bot.model.plan import Refused
from tests.support.bot import LEAD, OPERATOR, Bench, Desk, add_releases, containers, live, make_bench, make_desk, notes
from tests.support.judge import mrkdwn

LIVE = "the live client-x, container client-x--3 on local"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """After a restore the live container is `client-x--3`, and the old one is called as the client."""
    made = make_bench(tmp_path)
    made.done("new client-x")
    made.done("snapshot client-x", OPERATOR)
    assert made.done("restore client-x s-20270115-080000-2", OPERATOR).state == "succeeded"
    return made


@pytest.fixture
def desk(bench: Bench) -> Desk:
    return make_desk(bench)


def test_the_live_one_is_named_as_not_affected_on_card_in_the_window_and_afterwards(desk: Desk) -> None:
    operation = desk.bench.ask("purge client-x", OPERATOR)
    card = "\n".join(mrkdwn(desk.announcer.card(operation).blocks))
    assert "*Deletes:* container client-x on local, with all data and snapshots" in card
    assert f"*Not affected:* {LIVE}" in card
    desk.click("approve", operation.id)
    assert f"*Not affected:* {LIVE}" in desk.slack.views[-1]["blocks"][0]["text"]["text"]
    desk.bench.approve(operation, LEAD)
    desk.bench.finish()
    assert live(desk.bench)
    told = notes(desk.bench, operation)[-1]
    assert "(replaced by restore 3" in told
    assert f"*Not affected:* {LIVE}" in told


def test_the_live_one_is_refused_by_name(bench: Bench) -> None:
    with pytest.raises(Refused, match="`client-x--3` is the live `client-x`, which is never purged"):
        bench.answer("purge client-x client-x--3", OPERATOR)


def test_a_name_that_there_is_not_is_not_taken_for_a_tenant(bench: Bench) -> None:
    with pytest.raises(Refused, match="There is no tenant or old copy named `nosuch`"):
        bench.answer("purge nosuch", OPERATOR)


def test_one_that_became_the_tenant_since_is_not_removed(bench: Bench) -> None:
    operation = bench.approve(bench.ask("purge client-x", OPERATOR))

    def become(moment: str) -> None:
        if moment == "started 0":
            bench.lxd.update("client-x", as_labels(role="tenant", state="live"))

    bench.runner.fault = become
    bench.finish()
    ended = bench.context.operations.get(operation.id)
    assert (ended.state, ended.outcome) == ("failed", "`client-x` is the live `client-x`, and is not deleted.")
    assert bench.lxd.instance("client-x")


def test_where_there_is_no_live_one_it_says_that_this_is_all(bench: Bench) -> None:
    bench.done("delete client-x", OPERATOR)
    remarks = bench.answer("purge client-x client-x--archived", OPERATOR).remarks
    assert remarks["Not affected"] == "nothing: there is no live client-x, and this is the last copy"


def test_which_one_says_what_each_is(bench: Bench) -> None:
    bench.done("delete client-x", OPERATOR)
    with pytest.raises(Refused, match=r"`client-x` \(replaced by restore 3.*`client-x--archived` \(the arch"):
        bench.answer("purge client-x", OPERATOR)


def test_the_archive_that_stands_in_the_way_is_told_from_the_live_one(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    config = as_labels(role="archived", tenant="client-x", archived=1, operation=0)
    bench.lxd.create("client-x--archived", "base", config=config, devices={})
    with pytest.raises(Refused, match=r"`/mautic purge client-x client-x--archived`\. The live"):
        bench.answer("delete client-x", OPERATOR)


def test_the_copy_of_a_rehearsal_is_offered_only_when_that_is_not_under_way(bench: Bench) -> None:
    add_releases(bench, "6.0.10")
    asked = bench.ask("rehearse client-x", OPERATOR)

    def die(moment: str) -> None:
        if moment == "recorded 1":
            raise SystemExit

    bench.runner.fault = die
    with pytest.raises(SystemExit):
        bench.finish()
    copy = f"client-x--{asked.id}"
    assert copy in containers(bench)
    assert bench.answer("purge client-x", OPERATOR).arguments["container"] == "client-x"
    with bench.context.database.transaction() as transaction:
        transaction.execute("UPDATE operations SET state = 'given_up' WHERE id = ?", (asked.id,))
    what = rf"`{copy}` \(copy of a rehearsal, left over from request #{asked.id}\)"
    with pytest.raises(Refused, match=what):
        bench.answer("purge client-x", OPERATOR)
    bench.runner.fault = lambda moment: None
    done = bench.done(f"purge client-x {copy}", OPERATOR)
    assert done.plan["summary"] == "Delete leftover copy of client-x permanently"
    assert containers(bench) == {"client-x", "client-x--3"}
    assert live(bench)
