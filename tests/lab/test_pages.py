"""What visitors see of a tenant on the whole stack, open and closed; which pages break, and pictures of them."""

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
    """A tenant with a form, landing pages, an asset, and a contact who was sent a mail."""
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


def test_reading_the_pages_changes_nothing_and_works_on_a_closed_tenant(
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


def test_the_pages_of_a_throwaway_copy_include_a_download_and_a_mail_link(
    mautic: Mautic, host: LxdGateway, tenant: Clone
) -> None:
    pages = mautic.pages(tenant.name, thrown_away=True)
    found = by_key(pages)
    assert pages.left_out == {}
    assert (found["asset"].path, found["asset"].status, found["preferences"].status) == ("/asset/3:prices", 200, 200)
    assert "5f3a" not in repr(pages)
    assert "someone@example.test" not in repr([page.body for page in pages.pages])
    # Both requests leave traces, so these pages are requested of a throwaway copy only.
    assert sql(host, tenant, "SELECT COUNT(*) FROM lead_donotcontact WHERE lead_id = 8") == "1"
    assert sql(host, tenant, "SELECT download_count FROM assets WHERE id = 3") == "1"


def test_broken_pages_are_found_and_pictured(mautic: Mautic, host: LxdGateway, tenant: Clone) -> None:
    before = mautic.pages(tenant.name)
    assert worse(before, before) == ()
    host.remove(tenant.name, STYLE)
    sql(host, tenant, "UPDATE forms SET is_published = 0")
    after = mautic.pages(tenant.name)
    # A page may also be slower: other tests use the machine too.
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
