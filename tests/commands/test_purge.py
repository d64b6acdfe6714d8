"""`/mautic purge` never deletes the live tenant, and never reads as if it did."""

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
    """Return a bench after a restore: the live container is `client-x--3`, the old one has the name of the tenant."""
    made = make_bench(tmp_path)
    made.done("new client-x")
    made.done("snapshot client-x", OPERATOR)
    assert made.done("restore client-x s-20270115-080000-2", OPERATOR).state == "succeeded"
    return made


@pytest.fixture
def desk(bench: Bench) -> Desk:
    return make_desk(bench)


def test_the_card_the_dialog_and_the_result_say_that_the_live_container_is_not_affected(desk: Desk) -> None:
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


def test_purging_the_live_container_by_its_name_is_refused(bench: Bench) -> None:
    with pytest.raises(Refused, match="`client-x--3` is the live `client-x`, which is never purged"):
        bench.answer("purge client-x client-x--3", OPERATOR)


def test_an_unknown_name_is_not_taken_for_a_tenant(bench: Bench) -> None:
    with pytest.raises(Refused, match="There is no tenant or old copy named `nosuch`"):
        bench.answer("purge nosuch", OPERATOR)


def test_a_container_that_has_become_the_live_one_is_not_deleted(bench: Bench) -> None:
    operation = bench.approve(bench.ask("purge client-x", OPERATOR))

    def become(moment: str) -> None:
        if moment == "started 0":
            bench.lxd.update("client-x", as_labels(role="tenant", state="live"))

    bench.runner.fault = become
    bench.finish()
    ended = bench.context.operations.get(operation.id)
    assert (ended.state, ended.outcome) == ("failed", "`client-x` is the live `client-x`, and is not deleted.")
    assert bench.lxd.instance("client-x")


def test_without_a_live_container_the_card_says_that_this_is_the_last_copy(bench: Bench) -> None:
    bench.done("delete client-x", OPERATOR)
    remarks = bench.answer("purge client-x client-x--archived", OPERATOR).remarks
    assert remarks["Not affected"] == "nothing: there is no live client-x, and this is the last copy"


def test_the_question_which_copy_is_meant_says_what_each_is(bench: Bench) -> None:
    bench.done("delete client-x", OPERATOR)
    with pytest.raises(Refused, match=r"`client-x` \(replaced by restore 3.*`client-x--archived` \(the arch"):
        bench.answer("purge client-x", OPERATOR)


def test_an_archive_that_blocks_a_delete_is_not_confused_with_the_live_tenant(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    config = as_labels(role="archived", tenant="client-x", archived=1, operation=0)
    bench.lxd.create("client-x--archived", "base", config=config, devices={})
    with pytest.raises(Refused, match=r"`/mautic purge client-x client-x--archived`\. The live"):
        bench.answer("delete client-x", OPERATOR)


def test_the_copy_of_a_rehearsal_is_offered_only_when_the_rehearsal_is_over(bench: Bench) -> None:
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
