"""What a tenant's visitors see, as it was fetched inside, and what of it got worse between two looks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Key = Literal["login", "tracking", "form", "landing", "asset", "unsubscribe", "preferences", "linked"]
"""What a page is: a file that pages link is `linked`; of everything else a tenant has one at most."""
KEYS: tuple[Key, ...] = ("login", "tracking", "form", "landing", "asset", "unsubscribe", "preferences", "linked")
PICTURED: tuple[Key, ...] = ("login", "form", "landing", "unsubscribe")
"""Those that a person sees, and that show nothing of any contact."""
SLOW = 0.5
"""Seconds that a page may take, however fast it was."""
TIMES = 2.0
"""How many times as long as before it may take."""

Why = Literal["none", "unread", "counted", "unsubscribes", "late", "many", "long", "large"]
"""Why something was left out. none: nothing of it is published; unread: its table could not be read; counted,
unsubscribes: asking for it would do that; late: time was up; many: more files are linked; long: its address is; large:
its content is, and it was looked at all the same."""
GONE: tuple[Why, ...] = ("none", "unread")
"""Where something was left out for this, it is not there."""

What = Literal["gone", "status", "content", "linked", "slower"]
"""gone: it was there; status: it answered, and does not, or with an error; content: it answers with something else than
what makes it what it is; linked: a file that a page links does not come; slower: see SLOW and TIMES."""


@dataclass(frozen=True)
class Page:
    """One answer.

    Attributes:
        key: What it is.
        path: Where it is, with its query; without what tells of a contact.
        status: HTTP status; 0: no answer.
        seconds: Until it was whole.
        size: Bytes of it that were read.
        type: Its content type, without parameters.
        sha256: Of what was read.
        right: Whether what makes it what it is stands in it (a login page has a field for a name).
        cut: Whether there was more of it.
        body: The content of what is needed for a picture, where there was room for it.
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
        """Whether it came, and not as an error."""
        return 200 <= self.status < 400

    @property
    def place(self) -> str:
        """Its path without the query, in which Mautic says the version of a file."""
        return self.path.partition("?")[0]


@dataclass(frozen=True)
class Pages:
    """What was fetched at one time, and by path or key what was left out, and why."""

    pages: tuple[Page, ...] = ()
    left_out: Mapping[str, Why] = field(default_factory=dict)

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Pages:
        """Make them of the answer to `pages`, as `bot.guest.answers` gives it; what has none of our keys goes."""
        found = [Page(path=path, **told) for path, told in answer["pages"].items() if told["key"] in KEYS]
        left_out = {what: why for what, why in answer["left_out"].items() if why in get_args(Why)}
        return cls(tuple(sorted(found, key=lambda page: KEYS.index(page.key))), left_out)

    def of_key(self, key: Key) -> Page | None:
        """Return the page of a key, of `linked` ones the first."""
        return next((page for page in self.pages if page.key == key), None)

    @property
    def linked(self) -> tuple[Page, ...]:
        """The files that pages link."""
        return tuple(page for page in self.pages if page.key == "linked")


PROGRAMS = (".css", ".js")
"""Files without which a page does not work."""


@dataclass(frozen=True)
class Worse:
    """One thing that got worse; `templates/pages.j2` says it."""

    what: What
    key: Key
    path: str
    before: Page | None
    after: Page | None


def worse(before: Pages, after: Pages) -> tuple[Worse, ...]:
    """Compare two looks: what is worse in the second one, the pages first, then the files that they link.

    What was as bad before is no news, nor is a file that is not linked any more: releases rename theirs. What the
    second look left out is not judged, unless because it is not there.
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
        # A stylesheet of a new release may name a picture or font that is not there: no page needs it.
        had = old.answers if old else now.place.endswith(PROGRAMS)
        if not now.answers and had:
            told.append(Worse("linked", "linked", now.path, old, now))
        elif old and old.answers and now.answers and _slower(old, now):
            told.append(Worse("slower", "linked", now.path, old, now))
    return told


def _slower(was: Page, now: Page) -> bool:
    return now.seconds > SLOW and now.seconds > TIMES * was.seconds
