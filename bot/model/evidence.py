"""The evidence of an upgrade's rehearsal: how long clients are offline, what changes, what gets worse. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from bot.model.pages import Pages, worse

CACHED = "cache"
"""The phase that the tenant's upgrade skips: the tenant gets the cache that the rehearsal built."""
NAMED = 12
"""Maximum number of names that are kept of each kind."""


@dataclass(frozen=True)
class Changes:
    """The lines that an upgrade added and removed: how many, and the first ones in `some`."""

    added: int = 0
    removed: int = 0
    some: tuple[str, ...] = ()

    @classmethod
    def of(cls, before: Iterable[str], after: Iterable[str]) -> Changes:
        """Return the changes from one set of lines to another."""
        had, has = set(before), set(after)
        added, removed = sorted(has - had), sorted(had - has)
        some = [f"+ {line}" for line in added] + [f"- {line}" for line in removed]
        return cls(len(added), len(removed), tuple(some[:NAMED]))


@dataclass(frozen=True)
class Seen:
    """One page before and after: HTTP status (0: no answer) and seconds (`took`, `takes`). `key`: `bot.model.pages`."""

    key: str
    path: str
    before: int
    after: int
    took: float
    takes: float


@dataclass(frozen=True)
class Evidence:
    """What a rehearsal found.

    `phases`: seconds of each phase of the upgrade; `around`: seconds of the other steps that keep clients offline
    (stop, copy, start). `migrations`: those that ran; `written`: rows that they wrote. `schema`: changed lines of
    `information_schema`. `lost`: tables with fewer rows than before, with both counts. `plugins`: the client's own
    plugins, and whether Mautic loads each. `broken`: plugins that Mautic loaded before and no longer loads. `kept`: how
    many plugins, themes, translations and other files of the client were carried over; `overwritten`: the first files
    of the release that the client had changed, of `changed` (0 in evidence of earlier releases). `errors`: lines in the
    log that are new. `failed`: why the rehearsal failed, in a sentence, and `step`: the key of the step that failed.
    `pages`: the pages that visitors see; `worse`: those that got worse, except by being slower. `uncounted`: tables
    that take too long to count. `disk`: bytes that the upgrade needs until the old tree is deleted; `memory`: the peak
    in bytes, 0 where unknown. `took`: seconds of the whole rehearsal. `blueprint`: the blueprint that the copy was
    moved to, "" where the copy stayed in its own container; `base`: when the blueprint's Debian packages were
    installed; `php`, `mariadb`: versions before and after. `drift`: facts that void the evidence when they change.
    `at`: epoch seconds.
    """

    tenant: str
    before: str
    version: str
    operation: int
    at: float
    drift: Mapping[str, str]
    phases: Mapping[str, float] = field(default_factory=dict)
    around: Mapping[str, float] = field(default_factory=dict)
    migrations: tuple[str, ...] = ()
    written: int = 0
    schema: Changes = field(default_factory=Changes)
    lost: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    plugins: Mapping[str, bool] = field(default_factory=dict)
    broken: tuple[str, ...] = ()
    kept: int = 0
    overwritten: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    pages: tuple[Seen, ...] = ()
    worse: tuple[str, ...] = ()
    took: float = 0.0
    failed: str = ""
    step: str = ""
    uncounted: tuple[str, ...] = ()
    disk: int = 0
    memory: int = 0
    blueprint: str = ""
    base: int = 0
    php: tuple[str, str] = ("", "")
    mariadb: tuple[str, str] = ("", "")
    changed: int = 0

    @property
    def unnamed(self) -> int:
        """How many overwritten files are not named."""
        return max(0, self.changed - len(self.overwritten))

    @property
    def patches(self) -> bool:
        """Whether this is a patch: Mautic keeps its version, and only the packages below it become newer."""
        return self.before == self.version

    @property
    def away(self) -> float:
        """Seconds that clients will see the maintenance page: all measured times except the skipped phase, `CACHED`."""
        return sum(self.around.values()) + sum(took for name, took in self.phases.items() if name != CACHED)

    @property
    def passed(self) -> bool:
        """Whether the upgrade may be offered: it did not fail, nothing is lost or broken, and no page got worse."""
        return not (self.failed or self.lost or self.broken or self.worse)

    def stored(self) -> str:
        """Return the evidence as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def read(cls, text: str) -> Evidence:
        """Parse what `stored` returned."""
        return msgspec.json.decode(text, type=cls)


def drift_of(found: Mapping[str, Any], facts: Mapping[str, str]) -> dict[str, str]:
    """Return the facts that a rehearsal depends on, from an answer of `Upgrades.evidence` and facts from outside.

    As long as they are equal at the rehearsal and at the upgrade, the rehearsal's evidence holds.
    """
    plugins = {name: one["version"] for name, one in sorted(found["plugins"].items())}
    return {
        "version": found["version"],
        "PHP": found["php"],
        "MariaDB": found["mariadb"],
        "database's schema": _digest(found["schema"]),
        "plugins": _digest(plugins),
        "changed files": _digest(found["own"]["changed"]),
        **facts,
    }


def drifted(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names of the facts that have changed since `then`."""
    return [name for name in now if then.get(name) != now[name]]


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an Evidence that follow from two answers of `Upgrades.evidence`, before and after."""
    counted = {
        name: (number, after["counts"].get(name, 0))
        for name, number in before["counts"].items()
        if name not in after["uncounted"] and after["counts"].get(name, 0) < number
    }
    own = before["own"]
    return {
        "schema": Changes.of(before["schema"], after["schema"]),
        # Tables that Mautic keeps for itself, such as caches, may lose rows.
        "uncounted": tuple(sorted(OF_CLIENTS.intersection([*before["uncounted"], *after["uncounted"]]))),
        "lost": {name: both for name, both in counted.items() if name in OF_CLIENTS},
        "plugins": {name: bool(one["loads"]) for name, one in after["plugins"].items()},
        "broken": tuple(
            name
            for name, one in before["plugins"].items()
            if one["loads"] and not after["plugins"].get(name, {"loads": False})["loads"]
        ),
        "kept": sum(len(own[kind]) for kind in ("plugins", "themes", "translations", "overlay")),
        "overwritten": tuple(own["changed"][:NAMED]),
        "changed": len(own["changed"]),
        "errors": tuple(sorted(set(after["errors"]) - set(before["errors"]))[:NAMED]),
    }


def pages_of(before: Pages, after: Pages) -> dict[str, Any]:
    """Return the fields of an Evidence that follow from the pages before and after."""
    now = {page.key: page for page in after.pages if page.key != "linked"}
    return {
        "pages": tuple(
            Seen(
                page.key,
                page.path,
                page.status,
                now[page.key].status if page.key in now else 0,
                page.seconds,
                now[page.key].seconds if page.key in now else 0.0,
            )
            for page in before.pages
            if page.key != "linked"
        ),
        "worse": tuple(f"{one.what} {one.key} {one.path}" for one in worse(before, after) if one.what != "slower"),
    }


OF_CLIENTS = frozenset(
    {
        *("assets", "campaigns", "campaign_events", "campaign_leads", "categories", "companies", "emails"),
        *("email_stats", "forms", "form_fields", "form_submissions", "focus", "lead_donotcontact", "lead_fields"),
        *("lead_lists", "lead_lists_leads", "lead_notes", "lead_tags", "leads", "page_hits", "pages", "points"),
        *("reports", "roles", "sms_messages", "stages", "users", "webhooks"),
    }
)
"""Tables of what a client created or collected: no upgrade may delete a row of them."""


def _digest(told: object) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
