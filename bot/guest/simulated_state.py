"""The state of a tenant in memory: see `bot.guest.simulated`."""

from __future__ import annotations

from typing import Any

import msgspec

from bot.lxd.protocol import Lxd, NotFound

STATE = "/run/mautic-ops-simulated.json"
"""In memory there, so that it takes none of the tenant's disk and can be written on a full one."""


RELEASE = "/run/mautic-ops-simulated-release"
"""Which release the blueprint of a container was made of."""


class State(msgspec.Struct):
    """What can be otherwise than well.

    `stopped` are services that do not run; `crons_ended` is since when jobs do not succeed, `rested` from when until
    when they did not, the last time; `refuses`: verbs that it says no to; `memory` in bytes; `writes` are (contacts,
    submissions or opt_outs; epoch seconds), on top of `contacts`; `failed_mails` is when Mautic gave up on each,
    `mails` when each that waits came due, `sent` when each was sent, and `dropped` (batch, when it came due);
    `furnished` is (version, the one before), while that can be put back; `broken_pages` is the status of each
    page or file that does not come, by path, 0 where it does not answer.

    Of upgrades: `version` that serves where it is not the label's, the one that served `before` it and that is kept,
    the one that is `staged`, and what the `cache` in it, or in the one that serves, is of. `schema`: the version that
    the database is of. `plugins` of the client's own, and whether each loads. `breaks`: a step of an upgrade that
    fails, and what Mautic says then.

    Of consent: `people` are the addresses of contacts by their id, `opted_out` are (contact, channel, reason, epoch
    seconds), `erased` (contact, epoch seconds); `addressed` are the addresses that mails in the queue are for.

    `packages` are those of Debian, with their versions.
    """

    stopped: list[str] = []
    refuses: list[str] = []
    crons_ended: float = 0
    rested: tuple[float, float] = (0, 0)
    queue_age: int = 0
    log_errors: int = 0
    memory: int = 70 << 20
    contacts: int = 1200
    writes: list[tuple[str, float]] = []
    overdue: str = ""
    failed_mails: list[float] = []
    mails: list[float] = []
    sent: list[float] = []
    dropped: list[tuple[int, float]] = []
    furnished: tuple[int, int] = (0, 0)
    broken_pages: dict[str, int] = {}
    version: str = ""
    before: str = ""
    staged: str = ""
    cache: str = ""
    schema: str = ""
    plugins: dict[str, bool] = {}
    breaks: dict[str, str] = {}
    people: dict[int, str] = {}
    opted_out: list[tuple[int, str, int, float]] = []
    erased: list[tuple[int, float]] = []
    addressed: list[str] = []
    packages: dict[str, str] = {}


_STATE = msgspec.json.Decoder(State)
"""Made before there are threads, in which msgspec cannot learn one type at once."""


def read(lxd: Lxd, instance: str) -> State:
    """Return a tenant's state; one that nobody changed is well."""
    try:
        return _STATE.decode(lxd.pull(instance, STATE))
    except NotFound:
        return State()


def change(lxd: Lxd, instance: str, **fields: Any) -> State:
    """Change some of a tenant's state, and return it."""
    state = msgspec.structs.replace(read(lxd, instance), **fields)
    lxd.push(instance, STATE, msgspec.json.encode(state))
    return state
