"""What visitors see of a tenant on the whole stack, open and closed, what breaks of it, and its pictures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bot.guest.mautic import Mautic
from bot.lxd.gateway import LxdGateway
from bot.model.pages import Page, Pages, worse
from bot.reports import pictures
from tests.lab.conftest import Clone
from tests.support.forms import make_form
from tests.support.real_lxd import need

PUBLISHED = """
SET STATEMENT sql_mode = '' FOR INSERT INTO pages SET id = 5, is_published = 1, title = 'Spring', alias = 'spring',
  custom_html = '<link rel="stylesheet" href="/media/images/spring.css"><h1>Spring</h1>';
SET STATEMENT sql_mode = '' FOR INSERT INTO pages SET id = 6, is_published = 1, title = 'Later', alias = 'later',
  publish_up = UTC_TIMESTAMP() + INTERVAL 1 DAY;
SET STATEMENT sql_mode = '' FOR INSERT INTO assets SET id = 3, is_published = 1, title = 'Prices', alias = 'prices';
SET STATEMENT sql_mode = '' FOR INSERT INTO leads SET id = 8, email = 'someone@example.test', is_published = 1;
SET STATEMENT sql_mode = '' FOR INSERT INTO email_stats SET lead_id = 8, email_address = 'someone@example.test',
  date_sent = UTC_TIMESTAMP(), tracking_hash = '5f3a';
"""
STYLE = "/var/www/mautic/media/images/spring.css"
TRACES = """
SELECT (SELECT COUNT(*) FROM leads), (SELECT COUNT(*) FROM page_hits), (SELECT COUNT(*) FROM lead_donotcontact),
  (SELECT SUM(download_count) FROM assets), (SELECT COUNT(*) FROM form_submissions);
"""


@pytest.fixture(scope="module")
def mautic(host: LxdGateway) -> Mautic:
    return Mautic(host)


@pytest.fixture(scope="module")
def tenant(host: LxdGateway, clone: Callable[..., Clone]) -> Clone:
    """A tenant with something of each kind."""
    made = clone()
    make_form(host, made.name, 7)
    host.push(made.name, STYLE, b"body{background:#206040}", mode=0o644)
    sql(host, made, PUBLISHED)
    return made


def sql(host: LxdGateway, tenant: Clone, statements: str) -> str:
    ended = host.execute(tenant.name, ["mariadb", "--batch", "--skip-column-names", "mautic", "-e", statements])
    assert ended.code == 0, ended.stderr
    return ended.stdout.strip()


def by_key(pages: Pages) -> dict[str, Page]:
    return {page.key: page for page in pages.pages}


def test_all_of_it_is_seen_open_or_closed_and_nothing_is_changed(
    mautic: Mautic, host: LxdGateway, tenant: Clone
) -> None:
    traces = sql(host, tenant, TRACES)
    found = by_key(mautic.pages(tenant.name))
    assert {key: (page.status, page.right) for key, page in found.items()} == dict.fromkeys(
        ("login", "tracking", "form", "landing", "unsubscribe", "linked"), (200, True)
    )
    assert (found["form"].path, found["landing"].path) == ("/form/7", "/spring")
    assert sql(host, tenant, TRACES) == traces
    mautic.close(tenant.name, "suspended")
    try:
        closed = by_key(mautic.pages(tenant.name))
        assert {key: page.status for key, page in closed.items()} == dict.fromkeys(found, 200)
        assert b"Closed for the moment" not in closed["login"].body
    finally:
        mautic.open(tenant.name)


def test_of_a_copy_the_download_and_the_link_of_a_mail_are_seen_too(
    mautic: Mautic, host: LxdGateway, tenant: Clone
) -> None:
    pages = mautic.pages(tenant.name, thrown_away=True)
    found = by_key(pages)
    assert pages.left_out == {}
    assert (found["asset"].path, found["asset"].status, found["preferences"].status) == ("/asset/3:prices", 200, 200)
    assert "5f3a" not in repr(pages)
    assert "someone@example.test" not in repr([page.body for page in pages.pages])
    # That is why it is asked for nowhere else.
    assert sql(host, tenant, "SELECT COUNT(*) FROM lead_donotcontact WHERE lead_id = 8") == "1"
    assert sql(host, tenant, "SELECT download_count FROM assets WHERE id = 3") == "1"


def test_what_breaks_is_found_and_shown(mautic: Mautic, host: LxdGateway, tenant: Clone) -> None:
    before = mautic.pages(tenant.name)
    assert worse(before, before) == ()
    host.remove(tenant.name, STYLE)
    sql(host, tenant, "UPDATE forms SET is_published = 0")
    after = mautic.pages(tenant.name)
    # A page may be slower: the machine is not ours alone.
    assert [(one.what, one.key) for one in worse(before, after) if one.what != "slower"] == [
        ("gone", "form"),
        ("linked", "linked"),
    ]
    need("chromium")
    answer = pictures.take(before, after, tenant.domain)
    shares = {one.key: one.share for one in answer.pictures}
    assert (answer.why, [one.why for one in answer.pictures]) == ("", [""] * 3)
    assert shares["landing"] > 0.9
    assert (shares["login"], shares["unsubscribe"]) == (0.0, 0.0)
