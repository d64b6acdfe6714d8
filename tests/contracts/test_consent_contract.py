"""How a rollback reads and repeats opt-outs and erasures: one suite for the simulation and for a MariaDB."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import pytest

from bot.guest import consent as asking
from bot.guest.answers import decode
from bot.guest.blueprint.mautic_ctl import consent, system
from bot.guest.blueprint.mautic_ctl.system import CtlError
from bot.guest.consent import Consent, Withdrawals, Withdrawn
from bot.guest.mautic import Mautic
from bot.guest.simulated_state import change, read
from bot.lxd.protocol import LxdError
from tests.support.large_tenant import LargeTenant
from tests.support.simulated_lxd import SimulatedLxd

NOW = 1_800_000_000.0
UPGRADE = NOW - 3600
PEOPLE = {1: "ann@x.test", 2: "ben@x.test", 3: "cy@x.test", 4: "dan@x.test"}
NAME = "client-x"


class Tenant(Protocol):
    """A closed tenant, at first in its state at the upgrade."""

    mautic: Mautic

    def opt_out(self, contact: int, channel: str = "email") -> None: ...
    def erase(self, contact: int) -> None: ...
    def earlier(self) -> None:
        """Go back to the state at the upgrade."""

    def opted_out(self) -> set[tuple[int, str]]: ...
    def contacts(self) -> set[int]: ...
    def open(self) -> None: ...


class Simulated:
    def __init__(self) -> None:
        self.lxd = SimulatedLxd(clock=lambda: NOW)
        self.lxd.import_image(__file__, "base", {})
        self.lxd.create(NAME, "base", config={}, devices={})
        self.lxd.start(NAME)
        self.mautic = Mautic(self.lxd)
        self.mautic.close_copy(NAME)
        self.earlier()

    def opt_out(self, contact: int, channel: str = "email") -> None:
        change(self.lxd, NAME, opted_out=[*read(self.lxd, NAME).opted_out, (contact, channel, 1, NOW)])

    def erase(self, contact: int) -> None:
        state = read(self.lxd, NAME)
        people = {one: email for one, email in state.people.items() if one != contact}
        change(self.lxd, NAME, people=people, erased=[*state.erased, (contact, NOW)], contacts=len(people))

    def earlier(self) -> None:
        change(self.lxd, NAME, people=PEOPLE, contacts=len(PEOPLE), opted_out=[], erased=[])

    def opted_out(self) -> set[tuple[int, str]]:
        return {found[:2] for found in read(self.lxd, NAME).opted_out}

    def contacts(self) -> set[int]:
        return set(read(self.lxd, NAME).people)

    def open(self) -> None:
        self.mautic.open(NAME)


class InMariaDb:
    """The tool itself, in this process, on a separate database."""

    def __init__(self, server: LargeTenant) -> None:
        self.server = server
        self.mautic = cast(Mautic, self)
        self.earlier()

    def call(self, instance: str, verb: str, request: Mapping[str, Any], **_: object) -> dict[str, Any]:
        verbs: dict[str, Callable[[Any], dict[str, Any]]] = {
            "withdrawals": consent.withdrawals,
            "withdraw": consent.withdraw,
        }
        try:
            answer: dict[str, Any] = {"ok": True, **verbs[verb](json.loads(json.dumps(request)))}
        except CtlError as error:
            answer = {"ok": False, "error": str(error)}
        return decode(instance, verb, json.dumps(answer).encode())

    def opt_out(self, contact: int, channel: str = "email") -> None:
        self.server.sql(
            "INSERT INTO lead_donotcontact (lead_id, date_added, reason, channel)"
            f" VALUES ({contact}, FROM_UNIXTIME({NOW}), 1, '{channel}');"
        )

    def erase(self, contact: int) -> None:
        self.server.sql(
            "INSERT INTO audit_log (user_id, user_name, bundle, object, object_id, action, details, date_added,"
            f" ip_address) SELECT 1, 'a', 'lead', 'lead', {contact}, 'delete',"
            " CONCAT('a:1:{s:4:\"name\";s:', LENGTH(email), ':\"', email, '\";}'),"
            f" FROM_UNIXTIME({NOW}), '::1' FROM leads WHERE id = {contact};"
            f"DELETE FROM lead_donotcontact WHERE lead_id = {contact}; DELETE FROM leads WHERE id = {contact};"
        )

    def earlier(self) -> None:
        people = ", ".join(f"({contact}, '2026-01-01', '{email}')" for contact, email in PEOPLE.items())
        self.server.sql(
            "DELETE FROM lead_donotcontact; DELETE FROM audit_log; DELETE FROM leads;"
            f"INSERT INTO leads (id, date_added, email) VALUES {people};"
        )

    def opted_out(self) -> set[tuple[int, str]]:
        rows = self.server.sql("SELECT lead_id, channel FROM lead_donotcontact;")
        return {(int(contact), channel) for contact, channel in rows}

    def contacts(self) -> set[int]:
        return {int(row[0]) for row in self.server.sql("SELECT id FROM leads;")}

    def open(self) -> None:
        consent.CLOSED.unlink()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LargeTenant]:
    made = LargeTenant(tmp_path_factory.mktemp("mariadb"), contacts=40, buffer_pool="32M")
    yield made
    made.stop()


@pytest.fixture(params=["simulated", "MariaDB"])
def tenant(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tenant:
    if request.param == "simulated":
        return Simulated()
    made: LargeTenant = request.getfixturevalue("server")
    monkeypatch.setitem(system.ENVIRONMENT, "HOME", str(made.home))
    monkeypatch.setattr(consent, "CLOSED", tmp_path / "sealed")
    (tmp_path / "sealed").touch()
    for done_elsewhere in ("await_systemd", "start_database"):
        monkeypatch.setattr(consent, done_elsewhere, lambda *_: None)
    return InMariaDb(made)


def said(tenant: Tenant) -> Withdrawals:
    (page,) = Consent(tenant.mautic).pages(NAME, UPGRADE)
    return page


def test_opt_outs_and_erasures_since_a_time_are_counted_and_listed(tenant: Tenant) -> None:
    tenant.opt_out(1)
    tenant.opt_out(2, "sms")
    tenant.erase(3)
    found = Consent(tenant.mautic).count(NAME, UPGRADE)
    assert (found.contacts, found.opt_outs, found.erasures, found.said, found.erased) == (3, 2, 1, [], [])
    page = said(tenant)
    assert (page.opt_outs, page.erasures) == (2, 1)
    keys = ("contact", "email", "channel", "reason", "channel_id", "at")
    assert [tuple(one[key] for key in keys) for one in page.said] == [
        (1, "ann@x.test", "email", 1, None, int(NOW)),
        (2, "ben@x.test", "sms", 1, None, int(NOW)),
    ]
    assert [(one["contact"], one["at"]) for one in page.erased] == [(3, int(NOW))]
    later = Consent(tenant.mautic).count(NAME, NOW + 1)
    assert (later.opt_outs, later.erasures) == (0, 0)


def test_an_erased_contact_no_longer_counts_as_an_opt_out(tenant: Tenant) -> None:
    tenant.opt_out(1)
    tenant.erase(1)
    page = said(tenant)
    assert (page.opt_outs, page.erasures, list(page.said)) == (0, 1, [])


def test_many_rows_come_in_pages(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PAGE", 1)
    tenant.opt_out(1)
    tenant.opt_out(2)
    tenant.erase(3)
    pages = list(Consent(tenant.mautic).pages(NAME, UPGRADE))
    assert [(len(page.said), len(page.erased)) for page in pages] == [(1, 1), (1, 0), (0, 0)]
    assert (pages[0].opt_outs, pages[0].erasures, pages[0].contacts) == (2, 1, 3)


def test_opt_outs_and_erasures_are_repeated_in_the_copy_only_once(tenant: Tenant) -> None:
    tenant.opt_out(1)
    tenant.opt_out(2, "sms")
    tenant.erase(3)
    page = said(tenant)
    tenant.earlier()
    asked = Consent(tenant.mautic)
    assert asked.withdraw(NAME, page) == Withdrawn(opt_outs=2, erasures=1)
    assert asked.withdraw(NAME, page) == Withdrawn()
    assert tenant.opted_out() == {(1, "email"), (2, "sms")}
    assert tenant.contacts() == {1, 2, 4}


def test_a_contact_who_opted_out_and_was_erased_later_is_erased(tenant: Tenant) -> None:
    tenant.opt_out(1)
    before = said(tenant)
    tenant.erase(1)
    after = said(tenant)
    tenant.earlier()
    for page in (before, after):
        Consent(tenant.mautic).withdraw(NAME, page)
    assert (tenant.opted_out(), tenant.contacts()) == (set(), {2, 3, 4})


def test_the_next_rollback_carries_opt_outs_and_erasures_again(tenant: Tenant) -> None:
    tenant.opt_out(1)
    tenant.erase(3)
    page = said(tenant)
    tenant.earlier()
    Consent(tenant.mautic).withdraw(NAME, page)
    again = said(tenant)
    assert [one["contact"] for one in again.said] == [1]
    assert list(again.erased) == list(page.erased)


@pytest.mark.parametrize("name", ["", "else@x.test"])
def test_a_contact_with_no_known_name_or_another_one_is_counted_and_not_erased(tenant: Tenant, name: str) -> None:
    tenant.erase(3)
    page = said(tenant)
    tenant.earlier()
    erased = [{**one, "name": name} for one in page.erased]
    assert Consent(tenant.mautic).withdraw(NAME, replace(page, erased=erased)) == Withdrawn(left=1)
    assert tenant.contacts() == set(PEOPLE)


def test_nobody_is_erased_if_an_older_tool_reports_no_names(tenant: Tenant) -> None:
    erased = [{"contact": 3, "at": int(NOW)}]
    assert Consent(tenant.mautic).withdraw(NAME, replace(said(tenant), erased=erased)) == Withdrawn(left=1)


def test_an_opt_out_also_applies_to_contacts_merged_into_its_contact(tenant: Tenant) -> None:
    tenant.opt_out(1)
    page = said(tenant)
    tenant.earlier()
    merged = [
        {"contact": 2, "name": "ben@x.test"},
        {"contact": 3, "name": "else@x.test"},
        {"contact": 90, "name": "dan@x.test"},
        {"contact": 91, "name": "Nobody"},
    ]
    carried = replace(page, said=[{**one, "merged": merged} for one in page.said])
    assert Consent(tenant.mautic).withdraw(NAME, carried) == Withdrawn(opt_outs=3)
    assert tenant.opted_out() == {(1, "email"), (2, "email"), (4, "email")}


def test_a_request_contains_the_number_of_the_operation_that_made_the_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    tenant = Simulated()
    answer = {"opt_outs": 0, "erasures": 0, "unknown": 0, "mails": 0}

    def call(instance: str, verb: str, request: dict[str, Any], **_: object) -> dict[str, int]:
        told.append(request)
        return answer

    monkeypatch.setattr(tenant.mautic, "call", call)
    page = Withdrawals(now=NOW, contacts=1, opt_outs=0, erasures=1, erased=[{"contact": 1, "at": 1}])
    for name in ("client-x--17", "client-7"):
        assert Consent(tenant.mautic).withdraw(name, page) == Withdrawn(), "an older tool does not report `left`"
    assert [one["batch"] for one in told] == [17, 0]


def test_an_opt_out_of_a_contact_that_the_copy_lacks_is_reported(tenant: Tenant) -> None:
    tenant.opt_out(1)
    page = said(tenant)
    tenant.earlier()
    tenant.erase(1)
    assert Consent(tenant.mautic).withdraw(NAME, page) == Withdrawn(unknown=1)


def test_an_open_tenant_refuses_opt_outs(tenant: Tenant) -> None:
    tenant.opt_out(1)
    page = said(tenant)
    tenant.earlier()
    tenant.open()
    with pytest.raises(LxdError, match="it is open"):
        Consent(tenant.mautic).withdraw(NAME, page)
    assert tenant.opted_out() == set()
