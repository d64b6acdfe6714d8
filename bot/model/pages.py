"""A tenant's pages, fetched from inside its container, and which of them got worse between two checks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Key = Literal["login", "tracking", "form", "landing", "asset", "unsubscribe", "preferences", "linked"]
"""The kind of a page. Files that pages link are `linked`; of every other kind a tenant has at most one page."""
KEYS: tuple[Key, ...] = ("login", "tracking", "form", "landing", "asset", "unsubscribe", "preferences", "linked")
PICTURED: tuple[Key, ...] = ("login", "form", "landing", "unsubscribe")
"""The pages of which pictures are taken: people see them, and they show no data of a contact."""
SLOW = 0.5
"""Seconds up to which a page never counts as slower."""
TIMES = 2.0
"""The factor by which a page may take longer than before."""

Why = Literal["none", "unread", "counted", "unsubscribes", "late", "many", "long", "large"]
"""Why a page was left out. none: nothing of its kind is published; unread: its table could not be read; counted:
fetching it would count as a download; unsubscribes: fetching it would unsubscribe a contact; late: the time was up;
many: too many files are linked; long: its address is too long; large: its content is too large to keep, although the
page was checked."""
GONE: tuple[Why, ...] = ("none", "unread")
"""The reasons that mean that the page does not exist."""

What = Literal["gone", "status", "content", "linked", "slower"]
"""How a page got worse. gone: it no longer exists; status: it no longer answers, or with an error; content: it lacks
its characteristic content; linked: a file that a page links does not load; slower: see SLOW and TIMES."""


@dataclass(frozen=True)
class Page:
    """The answer to one request for a page.

    Attributes:
        key: The kind of the page.
        path: Path and query, without anything that identifies a contact.
        status: HTTP status; 0: no answer.
        seconds: Time until the answer was complete.
        size: Number of bytes that were read.
        type: Content type, without parameters.
        sha256: Checksum of the bytes that were read.
        right: Whether the page has its characteristic content (a login page has a field for a name).
        cut: Whether the answer was longer than what was read.
        body: Content that a picture needs, where the size limits left space for it.
    """

    key: Key
    path: str
    status: int
    seconds: float
    size: int = 0
    type: str = ""
    sha256: str = ""
    right: bool = True
    cut: bool = False
    body: bytes = field(default=b"", repr=False)

    @property
    def answers(self) -> bool:
        """Whether the page answered without an error."""
        return 200 <= self.status < 400

    @property
    def place(self) -> str:
        """The path without the query, into which Mautic puts the version of a file."""
        return self.path.partition("?")[0]


@dataclass(frozen=True)
class Pages:
    """The pages of one check, and why others were left out, by path or key."""

    pages: tuple[Page, ...] = ()
    left_out: Mapping[str, Why] = field(default_factory=dict)

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Pages:
        """Return the pages from the answer to `pages`, as `bot.guest.answers` gives it; unknown keys are dropped."""
        found = [Page(path=path, **told) for path, told in answer["pages"].items() if told["key"] in KEYS]
        left_out = {what: why for what, why in answer["left_out"].items() if why in get_args(Why)}
        return cls(tuple(sorted(found, key=lambda page: KEYS.index(page.key))), left_out)

    def of_key(self, key: Key) -> Page | None:
        """Return the page of a kind, the first one for `linked`; None where there is none."""
        return next((page for page in self.pages if page.key == key), None)

    @property
    def linked(self) -> tuple[Page, ...]:
        """The files that the pages link."""
        return tuple(page for page in self.pages if page.key == "linked")


PROGRAMS = (".css", ".js")
"""The endings of files without which a page does not work."""


@dataclass(frozen=True)
class Worse:
    """One page that got worse; `templates/pages.j2` has the words."""

    what: What
    key: Key
    path: str
    before: Page | None
    after: Page | None


def worse(before: Pages, after: Pages) -> tuple[Worse, ...]:
    """Return what got worse between two checks: pages first, then the files that they link.

    A page that was as bad before is not reported, nor is a file that is no longer linked, because releases rename
    theirs. A page that the second check left out is not judged, unless it was left out because it does not exist.
    """
    told = [_page(one, after.of_key(one.key), after.left_out) for one in before.pages if one.key != "linked"]
    return (*filter(None, told), *_linked(before.linked, after.linked))


def _page(was: Page, now: Page | None, left_out: Mapping[str, Why]) -> Worse | None:
    why = left_out.get(was.key) or left_out.get(was.path)
    if not was.answers or (now is None and why and why not in GONE):
        return None
    what: What | None = None
    if now is None:
        what = "gone"
    elif not now.answers:
        what = "status"
    elif was.right and not now.right:
        what = "content"
    elif _slower(was, now):
        what = "slower"
    return what and Worse(what, was.key, was.path, was, now)


def _linked(before: Iterable[Page], after: Iterable[Page]) -> list[Worse]:
    was = {page.place: page for page in before}
    told = []
    for now in after:
        old = was.get(now.place)
        # A style sheet of a new release may name a picture or font that does not exist; no page needs that file.
        had = old.answers if old else now.place.endswith(PROGRAMS)
        if not now.answers and had:
            told.append(Worse("linked", "linked", now.path, old, now))
        elif old and old.answers and now.answers and _slower(old, now):
            told.append(Worse("slower", "linked", now.path, old, now))
    return told


def _slower(was: Page, now: Page) -> bool:
    return now.seconds > SLOW and now.seconds > TIMES * was.seconds
