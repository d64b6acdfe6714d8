"""What is a tenant's own goes from its container into one that was made anew, by way of the bot, which keeps nothing.

Nothing is believed of the container that it leaves: the bot passes its lines on without a look at them, and who takes
them writes files of the web server's and of the database's, in their places (`mautic_ctl/own.py`). So the new container
has a system that nobody ever worked in, whatever became of the old one. See ADR 29.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bot.guest.answers import decode
from bot.guest.mautic import Mautic
from bot.lxd.protocol import Talk, TenantAnswerError
from bot.model.tenants import PlanSize

LIVE, CLOSED = 4 * 3600.0, 3600.0
"""Seconds that it may take while the tenant serves, and while nobody is served."""
MOST = 1 << 41
"""Bytes that are passed on at most; what is written is held by the disk's limit."""
LONGEST = 1 << 20
"""Bytes of one line."""


@dataclass(frozen=True)
class Brought:
    """What was brought this time: files and bytes, and the seconds of it."""

    files: int
    bytes: int
    seconds: float


class Own:
    """What is brought from an instance of one host into an instance of the same or another one."""

    def __init__(self, source: Mautic, target: Mautic) -> None:
        self._source = source
        self._target = target

    def bring(self, instance: str, candidate: str, *, same: bool, closed: bool = False) -> Brought:
        """Bring what is not there yet; raises LxdError, after which the next time may bring all of it anew.

        Args:
            instance: runs; it may serve meanwhile.
            candidate: runs, and is closed.
            same: both have the same release, so files of it that were changed by hand are brought too.
            closed: nobody is served meanwhile, and the database does not run.
        """
        timeout, word = (CLOSED if closed else LIVE), secrets.token_hex(8)
        with self._target.asked(candidate, "take_own", {"word": word}, timeout) as taking:
            known = decode(candidate, "taking", taking.line())["known"]
            request = {"word": word, "known": known, "same": same}
            with self._source.asked(instance, "send_own", request, timeout, MOST) as sending:
                try:
                    self._pass_on(instance, sending, taking)
                except TenantAnswerError:
                    # Who takes may have ended for a reason of its own.
                    _reason(candidate, taking)
                    raise
                told: dict[str, Any] = decode(instance, "send_own", sending.line())
            decode(candidate, "take_own", taking.line())
        return Brought(told["files"], told["bytes"], told["seconds"])

    def _pass_on(self, instance: str, sending: Talk, taking: Talk) -> None:
        while True:
            line = sending.line(LONGEST)
            if line[:1] == b"{":
                # It has failed, and says why.
                decode(instance, "send_own", line)
                raise TenantAnswerError(f"`{instance}` says that it is done before it has sent all.")
            taking.send(line + b"\n")
            if line == b".":
                return

    def adopt(
        self,
        candidate: str,
        *,
        hostname: str,
        domain: str,
        size: PlanSize,
        edge_address: str,
        slot: int | None,
        since: int,
        off: bool,
        same: bool,
    ) -> dict[str, Any]:
        """Have a candidate be what the tenant is, with its blueprint's release staged: {version, mariadb, cached,
        seconds}.

        Args:
            since: when the tenant was made, in epoch seconds.
            off: its outbound mail is off.
        """
        request = {
            "hostname": hostname,
            "domain": domain,
            "innodb_buffer_pool": size.innodb_buffer_pool,
            "fpm_children": size.fpm_children,
            "email_workers": size.email_workers,
            "edge_address": edge_address,
            "slot": slot,
            "since": since,
            "off": off,
            "same": same,
        }
        return self._target.call(candidate, "adopt", request, timeout=CLOSED + 600)


def _reason(candidate: str, taking: Talk) -> None:
    """Raise LxdError with what who takes says of its end, if anything."""
    with suppress(TenantAnswerError):
        decode(candidate, "take_own", taking.line())
