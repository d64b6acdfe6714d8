"""Reports Mautic's known security holes, from the bot's own list and the one in the settings, and who has them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from bot.guest.blueprint.archive import BASES, ArchiveError, obtain
from bot.model.advisories import Advisories, Advisory, InvalidAdvisories, Severity, at_least, counted, read
from bot.model.plan import Refused
from bot.model.releases import Release, newest_first, path
from bot.model.tenants import Tenant
from bot.settings import Settings

OURS = Path(__file__).with_name("advisories.json")
LARGEST = 1 << 20
"""The most bytes of a list that is accepted."""
SHOWN = 3
"""How many versions, or advisories, a sentence names."""


def advisories(settings: Settings) -> Advisories:
    """Return the known advisories: the bot's own, and those that the job `advisories` read from the settings' list."""
    more = _kept(settings)
    return _ours().with_more(more) if more else _ours()


def keep(settings: Settings) -> None:
    """Read and store the list that the settings name, unless it is stored; raise Refused where it cannot be used.

    The bot stores the list whole, exactly as it was checked, or not at all.
    """
    wanted = settings.advisories
    if not wanted.extra or _kept(settings):
        return
    try:
        path = obtain(wanted.extra, wanted.sha256, settings.state / "cache", "advisory file")
        if path.stat().st_size > LARGEST:
            raise InvalidAdvisories(f"it is larger than {LARGEST >> 20} MiB")
        data = path.read_bytes()
        read(data)
    except (ArchiveError, OSError) as error:
        raise Refused(f"`advisories.extra`: {error}") from error
    except InvalidAdvisories as error:
        raise Refused(f"`advisories.extra`: {wanted.extra} is not used, because it is not valid: {error}.") from error
    target = _file(settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    part.write_bytes(data)
    part.rename(target)


def told(known: Advisories, version: str) -> str:
    """Return a sentence about the holes of a version; "" where none is known."""
    found = known.of(version)
    if not found:
        return ""
    names = ", ".join(one.id for one in found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if found[SHOWN:] else "")
    cure = known.cure(version)
    return (
        f"Mautic {version} has {len(found)} known security hole{'s' if len(found) > 1 else ''} ({counted(found)}): "
        f"{names}; " + (f"fixed in {cure}" if cure else "no release fixes all of them yet")
    )


def refuse_holes(settings: Settings, version: str) -> dict[str, str]:
    """Return the facts for a card about the holes of a version; raise Refused where the settings refuse the version."""
    known = advisories(settings)
    if not (words := told(known, version)):
        return {}
    if at_least(known.of(version), settings.advisories.refuse):
        raise Refused(f"{words}. The setting `advisories.refuse` refuses such a version.")
    return {"Security": words}


def exposed(known: Advisories, tenants: Iterable[Tenant]) -> str:
    """Say how many tenants run a version with known holes, the worst versions first; "" where none does."""
    running = Counter(one.version for one in tenants if known.of(one.version))
    if not running:
        return ""
    # The sort is stable: of equally bad versions the newest comes first.
    versions = sorted(newest_first(running), key=lambda one: known.of(one)[0].severity.rank)
    count = sum(running.values())
    shown = "; ".join(_exposed(known, one, running[one]) for one in versions[:SHOWN])
    rest = len(versions) - SHOWN
    more = f"; and {rest} more version{'s' if rest > 1 else ''}" if rest > 0 else ""
    who = "1 tenant runs" if count == 1 else f"{count} tenants run"
    return f"{who} a Mautic version with known security holes: {shown}{more}. Details: `/mautic releases`"


def best_upgrade(known: Advisories, there: Sequence[Release], tenants: Iterable[Tenant]) -> str:
    """Return the release in the settings that tenants with known holes are best upgraded to; "" for none.

    Candidates are the nearest releases without a known hole that a version can be upgraded to in one step. The best one
    helps against the gravest holes, then the most tenants.
    """
    running = Counter(one.version for one in tenants if known.of(one.version))
    safe = newest_first(one.version for one in there if not known.of(one.version))
    helped: dict[str, tuple[int, int]] = {}
    for version, count in running.items():
        near = next((one for one in reversed(safe) if path(version, one, there, *BASES).direct), "")
        if near:
            rank, before = helped.get(near, (len(Severity), 0))
            helped[near] = min(rank, known.of(version)[0].severity.rank), before + count
    return min(helped, key=lambda one: (helped[one][0], -helped[one][1]), default="")


def _exposed(known: Advisories, version: str, count: int) -> str:
    found = known.of(version)
    published = [one.published for one in found if one.published]
    since = f", public since {min(published):%Y-%m-%d}" if published else ""
    cure = known.cure(version)
    return f"{count} on {version} ({_holes(found)}{since}, " + (f"fixed in {cure})" if cure else "no fix yet)")


def _holes(found: tuple[Advisory, ...]) -> str:
    return f"{len(found)} hole{'s' if len(found) > 1 else ''}: {counted(found)}"


@lru_cache(maxsize=1)
def _ours() -> Advisories:
    return read(OURS.read_bytes())


def _kept(settings: Settings) -> Advisories | None:
    """Return the settings' list as it was checked; None where it was not read yet."""
    if not settings.advisories.extra:
        return None
    try:
        data = _file(settings).read_bytes()
        # Only the bot writes this file, but a disk may corrupt it.
        return read(data) if hashlib.sha256(data).hexdigest() == settings.advisories.sha256 else None
    except (OSError, InvalidAdvisories):
        return None


def _file(settings: Settings) -> Path:
    return settings.state / "cache" / f"advisories-{settings.advisories.sha256}.json"
