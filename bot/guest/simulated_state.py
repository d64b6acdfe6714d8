"""Keeps the state of a simulated tenant: see `bot.guest.simulated`."""

from __future__ import annotations

from typing import Any

import msgspec

from bot.lxd.protocol import Lxd, NotFound

STATE = "/run/mautic-ops-simulated.json"
"""A file in memory, so that it takes no disk space of the tenant and can be written when its disk is full."""


RELEASE = "/run/mautic-ops-simulated-release"
"""Says which release the blueprint of a container was made of."""


class State(msgspec.Struct):
    """The state of a tenant; with the defaults it is healthy. Times are epoch seconds.

    Attributes:
        stopped: Services that do not run.
        refuses: Verbs that the tenant refuses.
        crons_ended: Since when jobs do not succeed, 0: they do.
        rested: From when until when jobs last did not succeed.
        slept: From when until when the machine was last suspended.
        memory: In bytes.
        writes: (`contacts`, `submissions` or `opt_outs`; time) of each write, on top of `contacts`.
        failed_mails: When Mautic gave up on each mail.
        mails: When each mail that waits came due, or will.
        sent: When each mail was sent.
        dropped: (batch, when it came due) of each dropped mail.
        furnished: (version of the furniture, the one before), while that can be restored.
        broken_pages: The status of each page or file that fails, by path; 0: it does not answer.
        version: The version that serves, if it is not the label's.
        before: The version that served before the last swap, and is kept.
        staged: The version that is staged.
        cache: What the compiled cache of the staged, or else the serving, version belongs to: see
            `bot.guest.simulated_upgrade.cache_of`.
        schema: The version that the database's schema has.
        plugins: The client's own plugins, and whether each loads.
        breaks: Steps of an upgrade that fail, and what Mautic says then.
        people: The addresses of contacts, by id.
        opted_out: (contact, channel, reason, time) of each opt-out.
        erased: (contact, time) of each erasure.
        addressed: The addresses of mails in the queue.
        packages: Debian packages, with their versions.
    """

    stopped: list[str] = []
    refuses: list[str] = []
    crons_ended: float = 0
    rested: tuple[float, float] = (0, 0)
    slept: tuple[float, float] = (0, 0)
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
"""Built before any thread starts, because two threads cannot make msgspec compile the same type at once."""


def read(lxd: Lxd, instance: str) -> State:
    """Return a tenant's state; it is healthy if no test has changed it."""
    try:
        return _STATE.decode(lxd.pull(instance, STATE))
    except NotFound:
        return State()


def change(lxd: Lxd, instance: str, **fields: Any) -> State:
    """Change some fields of a tenant's state, and return the new state."""
    state = msgspec.structs.replace(read(lxd, instance), **fields)
    lxd.push(instance, STATE, msgspec.json.encode(state))
    return state
