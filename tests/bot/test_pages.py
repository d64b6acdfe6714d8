"""The pages that visitors of a tenant see: which are read, which got worse, and in which words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.guest.mautic import Mautic
from bot.guest.simulated import change
from bot.guest.simulated_pages import LOGO, STYLE
from bot.model.pages import KEYS, Key, Page, Pages, Worse, worse
from bot.slack.messages import Renderer
from tests.support.simulated_lxd import SimulatedLxd

NAME = "client-x"
LOGIN = Page("login", "/s/login", 200, 0.1)
STYLED = Page("linked", "/app.css?v1", 200, 0.02)


@pytest.fixture
def lxd(tmp_path: Path) -> SimulatedLxd:
    server = SimulatedLxd(clock=lambda: 1_800_000_000.0)
    (tmp_path / "image").write_bytes(b"image")
    server.import_image(str(tmp_path / "image"), "base", {})
    server.create(NAME, "base", config={"user.mautic-ops.version": "5.2.12"}, devices={})
    server.start(NAME)
    return server


@pytest.fixture
def mautic(lxd: SimulatedLxd) -> Mautic:
    return Mautic(lxd)


def keys(found: tuple[Worse, ...]) -> list[tuple[str, str]]:
    return [(one.what, one.key if one.key != "linked" else one.path) for one in found]


def test_pages_whose_visit_changes_something_are_read_only_of_a_copy(mautic: Mautic) -> None:
    pages = mautic.pages(NAME)
    assert [page.key for page in pages.pages] == [
        "login", "tracking", "form", "landing", "unsubscribe", "linked", "linked",
    ]  # fmt: skip
    assert pages.left_out.keys() == {"asset", "preferences"}
    assert all(page.answers and page.right for page in pages.pages)
    login = pages.of_key("login")
    assert login
    assert b'name="_username"' in login.body
    copy = mautic.pages(NAME, thrown_away=True)
    assert {page.key for page in copy.pages} == set(KEYS)
    assert copy.left_out == {}
    preferences = copy.of_key("preferences")
    assert preferences
    assert preferences.body == b"", "it shows a contact"


def test_unchanged_pages_are_not_worse(mautic: Mautic) -> None:
    assert worse(mautic.pages(NAME), mautic.pages(NAME)) == ()


def test_a_failing_page_and_a_missing_file_are_worse(lxd: SimulatedLxd, mautic: Mautic) -> None:
    before = mautic.pages(NAME)
    change(lxd, NAME, broken_pages={"/s/login": 500, "/form/1": 0, STYLE: 404})
    after = mautic.pages(NAME)
    assert keys(worse(before, after)) == [("status", "login"), ("status", "form"), ("linked", f"{STYLE}?v5.2.12")]
    change(lxd, NAME, broken_pages={"/s/login": 500, LOGO: 404})
    assert keys(worse(after, mautic.pages(NAME))) == [("linked", LOGO)], "what was as bad before is not worse"


@pytest.mark.parametrize(
    ("was", "now", "what"),
    [
        (LOGIN, LOGIN, ""),
        (LOGIN, replace(LOGIN, status=302), ""),
        (LOGIN, replace(LOGIN, status=404), "status"),
        (LOGIN, replace(LOGIN, status=0), "status"),
        (LOGIN, None, "gone"),
        (LOGIN, replace(LOGIN, right=False), "content"),
        (replace(LOGIN, right=False), replace(LOGIN, right=False), ""),
        (replace(LOGIN, status=500), replace(LOGIN, status=404), ""),
        (replace(LOGIN, status=500), None, ""),
        (LOGIN, replace(LOGIN, seconds=0.5), ""),
        (LOGIN, replace(LOGIN, seconds=0.51), "slower"),
        (replace(LOGIN, seconds=0.4), replace(LOGIN, seconds=0.8), ""),
        (replace(LOGIN, seconds=0.4), replace(LOGIN, seconds=0.81), "slower"),
        (LOGIN, replace(LOGIN, seconds=3, status=500), "status"),
    ],
)
def test_a_page_is_worse_when_a_person_would_say_so(was: Page, now: Page | None, what: str) -> None:
    found = worse(Pages((was,)), Pages((now,) if now else ()))
    assert [one.what for one in found] == [what] * bool(what)


def test_a_page_that_was_left_out_for_lack_of_time_is_not_gone() -> None:
    assert worse(Pages((LOGIN,)), Pages((), {"login": "late"})) == ()
    assert worse(Pages((LOGIN,)), Pages((), {"/s/login": "late"})) == ()
    for left_out in ({"form": "late"}, {"login": "none"}, {"login": "unread"}):
        found = worse(Pages((LOGIN,)), Pages((), left_out))  # type: ignore[arg-type]
        assert [one.what for one in found] == ["gone"]


def test_only_known_words_are_accepted_from_a_tenant() -> None:
    told = {"key": "evil", "status": 200, "seconds": 0.1}
    pages = Pages.of({"pages": {"/x": told}, "left_out": {"form": "none", "asset": "<!channel>"}})
    assert pages == Pages((), {"form": "none"})


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ([STYLED], [replace(STYLED, path="/app.css?v2")], []),
        ([STYLED], [replace(STYLED, path="/app.css?v2", status=404)], ["linked"]),
        ([STYLED], [], []),
        ([], [replace(STYLED, status=404)], ["linked"]),
        ([], [replace(STYLED, path="/icons.woff2", status=404)], []),
        ([replace(STYLED, status=404)], [replace(STYLED, status=500)], []),
        ([STYLED], [replace(STYLED, path="/app.css?v2", seconds=0.9)], ["slower"]),
    ],
)
def test_a_linked_file_is_recognised_by_its_path_whatever_its_version(
    before: list[Page], after: list[Page], what: list[str]
) -> None:
    assert [one.what for one in worse(Pages(tuple(before)), Pages(tuple(after)))] == what


PAGE = st.builds(
    Page,
    key=st.sampled_from(KEYS),
    path=st.text(max_size=12),
    status=st.sampled_from([0, 200, 302, 404, 500]),
    seconds=st.floats(0, 9),
    right=st.booleans(),
)


LOOKED = st.lists(PAGE, max_size=6, unique_by=lambda page: page.place if page.key == "linked" else page.key)


@given(LOOKED, LOOKED)
def test_nothing_is_worse_than_itself_and_everything_worse_has_a_sentence(one: list[Page], other: list[Page]) -> None:
    assert worse(Pages(tuple(one)), Pages(tuple(one))) == ()
    found = worse(Pages(tuple(one)), Pages(tuple(other)))
    said = Renderer().words("pages.j2", found=found, left_out=dict.fromkeys(map(str, range(9)), "late"))
    assert len(said.splitlines()) >= len(found)


def said(what: str, key: Key, before: Page | None, after: Page | None, path: str = "/x") -> str:
    return Renderer().words("pages.j2", found=[Worse(what, key, path, before, after)], left_out={})  # type: ignore[arg-type]


SAID: list[tuple[Callable[[], str], str]] = [
    (
        lambda: said("status", "login", LOGIN, replace(LOGIN, status=500)),
        "The login page now answers with an error (HTTP 500).",
    ),
    (lambda: said("status", "form", LOGIN, replace(LOGIN, status=0)), "A form no longer answers."),
    (
        lambda: said("gone", "landing", LOGIN, None, "/spring"),
        "A landing page is gone: `/spring` is no longer published.",
    ),
    (
        lambda: said("content", "tracking", LOGIN, LOGIN),
        "The tracking script answers, but with different content than before.",
    ),
    (
        lambda: said("slower", "login", LOGIN, replace(LOGIN, seconds=2.0)),
        "The login page takes 2.0 s instead of 0.1 s.",
    ),
    (
        lambda: said("linked", "linked", None, replace(STYLED, status=404), "/a.css?<!here>"),
        "`/a.css?&lt;!here&gt;`, which a page needs, now answers with an error (HTTP 404).",
    ),
]


@pytest.mark.parametrize(("say", "sentence"), SAID)
def test_each_thing_that_got_worse_is_described_in_a_sentence(say: Callable[[], str], sentence: str) -> None:
    assert say() == sentence
