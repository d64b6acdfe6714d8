"""Every guard is tried at each of its five moments; a new guard without a case fails here.

The message names what is in the way and the way out, the audit log names the guard, and an operation that waits
continues by itself when nothing is in the way any more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from bot.engine.guards import COUNTED, GUARDS, STALLED, Guards, Moment
from bot.guest import simulated_state as simulated_tenant
from bot.guest.blueprint.mautic_ctl import outbound
from bot.guest.mautic import Mautic
from bot.lxd.protocol import LxdError
from bot.model.labels import State, as_labels
from bot.model.plan import NotNow, Refused
from bot.store import progress
from bot.store.freezes import EVERYTHING, Freezes
from bot.store.operation import Operation
from schedules.snapshots import snapshots
from tests.support.bot import ASKER, LEAD, LEAD_2, OPERATOR, Bench, Desk, add_blueprint, make_bench, make_desk, switch
from tests.support.bot import notes as notes_of
from tests.support.simulated_lxd import SimulatedLxd

GIB = 1 << 30
Ending = Literal["refused", "stays open", "cancelled", "waits", "fails", "asked again", "done"]


@dataclass(frozen=True)
class Case:
    """How a guard is tried.

    `text`: the command. `bring`: puts something in the way; returns a function that removes it. `says`: a pattern of
    the message, with the way out. `endings`: the outcome at each moment.
    """

    text: str
    bring: Callable[[Desk], Callable[[], None]]
    says: str
    endings: Mapping[Moment, Ending]
    prepare: Callable[[Desk], None] = lambda _: None


def frozen(desk: Desk) -> Callable[[], None]:
    freezes = Freezes(desk.bench.context.operations)
    freezes.begin("client-x", LEAD_2.id, "the sale is on", None)

    def over() -> None:
        freezes.end("client-x", LEAD_2.id)

    return over


def not_compared(desk: Desk) -> Callable[[], None]:
    operations = desk.bench.context.operations
    operations.compared = False

    def over() -> None:
        operations.compared = True

    return over


def nobody_may(desk: Desk) -> Callable[[], None]:
    """Take all roles from everybody."""
    groups, people = desk.slack.groups, desk.bench.context.people
    before = dict(groups)
    groups.update({name: [] for name in groups})
    people.forget()

    def over() -> None:
        groups.update(before)
        people.forget()

    return over


def at_work(desk: Desk) -> Callable[[], None]:
    """Run a Mautic command in the tenant, and another operation on it unless one is queued."""
    taken = desk.bench.context.operations.at_work.take("client-x", "`cache:clear` is running")
    taken.__enter__()
    held: list[Operation] = []
    with desk.bench.context.database.transaction() as transaction:
        free = "NOT EXISTS (SELECT 1 FROM operations WHERE tenant = 'client-x' AND state = 'queued')"
        transaction.execute(
            "INSERT INTO operations (id, command, tenant, arguments, requester, channel, state, plan, fingerprint,"
            " request_key, created, expires)"
            " SELECT 1500000000, 'snapshot', 'client-x', '{}', 'system', '', 'running', '{}', '',"
            f" 'beside', 0, 0 WHERE {free}"
        )
    held = desk.bench.context.operations.select("request_key = 'beside'")

    def over() -> None:
        taken.__exit__(None, None, None)
        for one in held:
            progress.finish(desk.bench.context.operations, one, "succeeded", outcome="done")

    return over


def half_way(desk: Desk) -> Callable[[], None]:
    desk.bench.lxd.update("client-x", as_labels(state=State.MOVING))
    return lambda: desk.bench.lxd.update("client-x", as_labels(state=State.LIVE))


def silent(desk: Desk) -> Callable[[], None]:
    down = switch(desk.bench.lxd)
    down.set()
    return down.clear


def overload(desk: Desk) -> Callable[[], None]:
    """Let another tenant use the memory of the host."""
    lxd = desk.bench.lxd
    lxd.memory_of = lambda name: 61 * GIB if name == "client-y" else GIB

    def over() -> None:
        lxd.memory_of = lambda name: GIB

    return over


def stopped(desk: Desk) -> None:
    for text in ("new client-y", "stop client-x"):
        assert desk.bench.done(text, OPERATOR).state == "succeeded"


HELD = (
    r"`client-x` is locked by the bot's own snapshot of `client-x`, which is in progress\. Try again when that is done"
)


def of_all(desk: Desk, field: str, value: float) -> None:
    with desk.bench.context.database.transaction() as transaction:
        transaction.execute(f"UPDATE operations SET plan = json_set(plan, '$.{field}', ?)", (value,))


def too_early(desk: Desk) -> Callable[[], None]:
    of_all(desk, "at", desk.bench.clock() + 7200)
    return lambda: desk.bench.clock.move(7200)


def outside_hours(desk: Desk) -> Callable[[], None]:
    """Set a window that begins later: it is 08:00."""
    of_all(desk, "can_wait", True)
    upgrades = desk.bench.context.settings.upgrades
    object.__setattr__(upgrades, "window", "22:00-05:00")
    return lambda: desk.bench.clock.move(14 * 3600)


def sending(desk: Desk) -> Callable[[], None]:
    of_all(desk, "can_wait", True)
    simulated_tenant.change(desk.bench.lxd, "client-x", stopped=["mautic-worker@email"], mails=[1.0])
    return lambda: simulated_tenant.change(desk.bench.lxd, "client-x", stopped=[], mails=[]) and None


ONLY_LATER: Mapping[Moment, Ending] = {
    Moment.REQUEST: "done",
    Moment.APPROVAL: "done",
    Moment.CLAIM: "waits",
    Moment.RETRY: "waits",
    Moment.MAINTENANCE: "done",
}
CASES: Mapping[str, Case] = {
    "policy": Case(
        "stop client-x",
        nobody_may,
        r"You can't use `[a-z]+`\. Ask an operator or an approver|Only approvers can decide|"
        r"1 more approval needed before it starts",
        {
            Moment.REQUEST: "refused",
            Moment.APPROVAL: "stays open",
            Moment.CLAIM: "asked again",
            Moment.RETRY: "refused",
            Moment.MAINTENANCE: "done",
        },
    ),
    "time": Case("stop client-x", too_early, r"The operation starts <!date\^1800007200\^", ONLY_LATER),
    "window": Case(
        "stop client-x",
        outside_hours,
        r"Upgrades start between 22:00-05:00 \(`upgrades\.window`\); the operation starts <!date\^1800050400\^",
        ONLY_LATER,
    ),
    "freeze": Case(
        "stop client-x",
        frozen,
        r"`client-x` is frozen by <@U0OPSLEAD2> because the sale is on\. "
        r"<@U0OPSLEAD2> or an approver can end the freeze: `/mautic unfreeze client-x`",
        {
            Moment.REQUEST: "refused",
            Moment.APPROVAL: "stays open",
            Moment.CLAIM: "waits",
            Moment.RETRY: "refused",
            Moment.MAINTENANCE: "refused",
        },
    ),
    "compared": Case(
        "stop client-x",
        not_compared,
        r"could not read in Slack whether its database is the newest one\. Until it can, nothing is decided and "
        r"nothing new begins",
        {
            Moment.REQUEST: "done",
            Moment.APPROVAL: "stays open",
            Moment.CLAIM: "waits",
            Moment.RETRY: "refused",
            Moment.MAINTENANCE: "refused",
        },
    ),
    "busy": Case(
        "stop client-x",
        at_work,
        rf"{HELD}|`cache:clear` is running in `client-x` and locks the tenant\. "
        r"The operation starts when that has finished\.",
        {
            Moment.REQUEST: "refused",
            Moment.APPROVAL: "stays open",
            Moment.CLAIM: "waits",
            Moment.RETRY: "refused",
            Moment.MAINTENANCE: "refused",
        },
    ),
    "half-way": Case(
        "suspend client-x",
        half_way,
        r"A move, restore or upgrade of `client-x` was interrupted\. To bring the site online: "
        r"`/mautic start client-x`",
        {
            Moment.REQUEST: "refused",
            Moment.APPROVAL: "cancelled",
            Moment.CLAIM: "fails",
            # A retried operation is checked again when it is claimed.
            Moment.RETRY: "fails",
            Moment.MAINTENANCE: "done",
        },
    ),
    "silent": Case(
        "stop client-x",
        silent,
        r"LXD does not answer\. Try again when the server answers; check with `/mautic doctor`\.",
        {
            Moment.REQUEST: "refused",
            Moment.APPROVAL: "stays open",
            Moment.CLAIM: "fails",
            Moment.RETRY: "fails",
            Moment.MAINTENANCE: "refused",
        },
    ),
    "memory": Case(
        "start client-x",
        overload,
        r"`client-x` cannot be started on `local`: .+ `/mautic hosts` shows all\.|"
        r"`local` is overloaded: .+\. The operation starts when the host recovers\.",
        {
            Moment.REQUEST: "refused",
            Moment.APPROVAL: "stays open",
            Moment.CLAIM: "waits",
            Moment.RETRY: "waits",
            Moment.MAINTENANCE: "refused",
        },
        prepare=stopped,
    ),
    "sending": Case(
        "stop client-x",
        sending,
        r"`client-x` is sending: 1 e-mail is due\. The operation starts when nothing is due any more\.",
        ONLY_LATER,
    ),
}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr("bot.store.operations.MAINTENANCE_ENDS", 0.0)
    monkeypatch.setattr("bot.engine.guards.ASKED_AGAIN", 0.0)
    lxd = SimulatedLxd(memory=64 * GIB)
    add_blueprint(lxd)
    bench = make_bench(tmp_path, lxd)
    bench.context.fleet.fresh = 0
    assert bench.done("new client-x").state == "succeeded"
    lxd.memory_of = lambda name: GIB
    return make_desk(bench)


def whole_policy(bench: Bench, command: str) -> None:
    """Make a command need an approval, so that a guard can be tried at that moment."""
    policies: Any = bench.context.settings.policies
    policies[command] = policies["default"]


def refused(desk: Desk, person: str) -> tuple[str, str]:
    """Return the last message to a person, and the guard of the newest refusal in the audit log."""
    rows = desk.bench.context.database.read("SELECT detail FROM audit WHERE event LIKE '%.refused' ORDER BY seq")
    return desk.slack.to(person)[-1], json.loads(rows[-1]["detail"]).get("guard", "") if rows else ""


def operations(desk: Desk) -> int:
    return len(desk.bench.context.operations.select("request_key <> 'beside'"))


def test_contacts_who_never_get_a_segment_email_delay_an_upgrade_only_for_a_while(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contacts in a segment that the email excludes would count as due for ever."""
    at, told = [1000.0], {"queue": 0, "broadcasts": 40}
    monkeypatch.setattr("bot.engine.guards.time", SimpleNamespace(monotonic=lambda: at[0]))
    monkeypatch.setattr(Mautic, "mail", lambda *_, **__: {"off": False, "kinds": told})
    guards = Guards(desk.bench.context)
    assert guards.due("client-x") == 40
    told["broadcasts"] = 3
    at[0] += 600
    assert guards.due("client-x") == 3, "the email is still being sent"
    at[0] += STALLED - 1
    assert guards.due("client-x") == 3
    at[0] += 1
    assert guards.due("client-x") == 0
    told["queue"] = 2
    assert guards.due("client-x") == 2
    told["broadcasts"] = COUNTED
    at[0] += STALLED
    assert guards.due("client-x") == COUNTED + 2
    at[0] += STALLED
    assert guards.due("client-x") == COUNTED + 2, "there may be many more, whose number falls unseen"


def test_a_tenant_counts_contacts_up_to_the_number_that_the_guard_expects() -> None:
    assert outbound.MOST == COUNTED


def test_every_guard_has_a_case_for_every_moment() -> None:
    assert list(CASES) == list(GUARDS)
    assert {key: set(case.endings) for key, case in CASES.items()} == {key: set(Moment) for key in GUARDS}


def at_request(desk: Desk, case: Case) -> Ending:
    before, over = operations(desk), case.bring(desk)
    desk.command(case.text, OPERATOR)
    if operations(desk) > before:
        return "done"
    said, guard = refused(desk, OPERATOR.id)
    assert re.search(case.says, said), said
    assert CASES[guard] is case
    assert operations(desk) == before
    over()
    desk.command(case.text, OPERATOR)
    assert operations(desk) == before + 1, "nothing is in the way any more"
    return "refused"


def at_approval(desk: Desk, case: Case) -> Ending:
    operation = desk.bench.ask(case.text, OPERATOR)
    over = case.bring(desk)
    desk.click("approve", operation.id, LEAD)
    if desk.bench.context.operations.get(operation.id).state == "queued":
        return "done"
    said, _ = refused(desk, LEAD.id)
    assert re.search(case.says, said), said
    state = desk.bench.context.operations.get(operation.id).state
    if state == "cancelled":
        return "cancelled"
    assert state == "awaiting_approval"
    over()
    desk.click("approve", operation.id, LEAD)
    desk.bench.finish()
    assert desk.bench.context.operations.get(operation.id).state == "succeeded"
    return "stays open"


def ending(desk: Desk, case: Case, operation: Operation, over: Callable[[], None]) -> Ending:
    """Run what is queued; check that an operation that waits says so once, and continues once nothing is in the way."""
    get = desk.bench.context.operations.get
    for _ in range(3):
        desk.bench.finish()
    found, told = get(operation.id), [*notes_of(desk.bench, operation), get(operation.id).outcome]
    assert any(re.search(case.says, one) for one in told), told
    if found.state == "awaiting_approval":
        return "asked again"
    if found.state == "failed":
        assert "nothing was changed" in notes_of(desk.bench, operation)[-1]
        return "fails"
    assert CASES[found.held_by] is case
    assert sum(bool(re.search(case.says, one)) for one in notes_of(desk.bench, operation)) == 1
    over()
    desk.bench.finish()
    assert (get(operation.id).state, get(operation.id).held_by) == ("succeeded", "")
    return "waits"


def at_claim(desk: Desk, case: Case) -> Ending:
    operation = desk.bench.approve(desk.bench.ask(case.text, OPERATOR))
    return ending(desk, case, operation, case.bring(desk))


def at_retry(desk: Desk, case: Case) -> Ending:
    operation = desk.bench.approve(desk.bench.ask(case.text, OPERATOR))

    def fault(moment: str) -> None:
        if moment == "started 0":
            raise LxdError("LXD could not.")

    desk.bench.runner.fault = fault
    desk.bench.finish()
    desk.bench.runner.fault = lambda moment: None
    assert desk.bench.context.operations.get(operation.id).state == "failed"
    over = case.bring(desk)
    desk.click("retry", operation.id, OPERATOR)
    if desk.bench.context.operations.get(operation.id).state == "queued":
        return ending(desk, case, operation, over)
    said, guard = refused(desk, OPERATOR.id)
    assert re.search(rf"{case.says}|Only .+ can use this button", said), said
    assert CASES[guard] is case
    over()
    desk.click("retry", operation.id, OPERATOR)
    desk.bench.finish()
    assert desk.bench.context.operations.get(operation.id).state == "succeeded"
    return "refused"


def at_maintenance(desk: Desk, case: Case) -> Ending:
    """Try pruning, which a freeze stops, unlike snapshots; the policy keeps none of the existing snapshots."""
    bench = desk.bench
    for _ in range(3):
        bench.clock.move(120)
        assert bench.done("snapshot client-x", OPERATOR).state == "succeeded"
    bench.clock.move(60)

    def ran_by_itself(command: str) -> int:
        where = "requester = 'system' AND command = ? AND request_key <> 'beside'"
        return len(bench.context.operations.select(where, command))

    def look() -> None:
        try:
            snapshots(bench.context)
        except LxdError:
            return
        bench.finish()

    over = case.bring(desk)
    look()
    if ran_by_itself("prune"):
        return "done"
    over()
    look()
    assert ran_by_itself("prune") == 1, "nothing is in the way any more"
    return "refused"


TRY: Mapping[Moment, Callable[[Desk, Case], Ending]] = {
    Moment.REQUEST: at_request,
    Moment.APPROVAL: at_approval,
    Moment.CLAIM: at_claim,
    Moment.RETRY: at_retry,
    Moment.MAINTENANCE: at_maintenance,
}


@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize("key", GUARDS)
def test_each_guard_has_its_outcome_at_each_moment(desk: Desk, key: str, moment: Moment) -> None:
    case = CASES[key]
    whole_policy(desk.bench, case.text.split()[0])
    case.prepare(desk)
    assert TRY[moment](desk, case) == case.endings[moment]


def test_a_refusal_that_leaves_the_request_open_is_a_not_now(desk: Desk) -> None:
    operation = desk.bench.ask("stop client-x", OPERATOR)
    frozen(desk)
    with pytest.raises(NotNow, match="Request #2 still waits for approval") as no:
        desk.bench.approve(operation)
    assert no.value.guard == "freeze"


def test_a_reason_mentions_nobody_when_it_is_repeated(desk: Desk) -> None:
    Freezes(desk.bench.context.operations).begin(EVERYTHING, LEAD.id, "ask <@U0BOSS> *first*", None)
    desk.command("stop client-x", OPERATOR)
    said = desk.slack.to(OPERATOR.id)[-1]
    assert f"<@{LEAD.id}>" in said
    assert "<@U0BOSS>" not in said
    with pytest.raises(Refused):
        desk.bench.answer("freeze all because again", ASKER)


def while_slack_is_asked(bench: Bench, work: Callable[[], None]) -> None:
    """Do something once, while the runner asks Slack about the approver."""
    bench.context.people.forget()
    answers = bench.slack.api_call

    def slow(method: str, params: dict[str, Any]) -> Any:
        if method == "users.info" and params["user"] == LEAD.id:
            bench.slack.api_call = answers
            work()
        return answers(method, params)

    bench.slack.api_call = slow


def test_an_operation_waits_for_a_freeze_that_begins_while_slack_is_asked(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    desk = make_desk(bench)
    operation = bench.approve(bench.ask("stop client-x", OPERATOR))
    while_slack_is_asked(bench, lambda: desk.command("freeze all because incident", LEAD_2))
    bench.finish()
    waits = bench.context.operations.get(operation.id)
    assert (waits.state, waits.held_by) == ("queued", "freeze")
    assert bench.lxd.instance("client-x").running
    desk.command("unfreeze all", LEAD_2)
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "succeeded"


def test_an_operation_waits_for_a_console_command_that_begins_while_slack_is_asked(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    operation = bench.approve(bench.ask("stop client-x", OPERATOR))
    work = ExitStack()
    while_slack_is_asked(
        bench, lambda: work.enter_context(bench.context.operations.at_work.take("client-x", "`cache:clear` is running"))
    )
    with work:
        bench.finish()
        waits = bench.context.operations.get(operation.id)
        assert (waits.state, waits.held_by) == ("queued", "busy")
        assert bench.lxd.instance("client-x").running
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "succeeded"
