"""Streams a tenant's own data from its container into a freshly cloned one; the bot passes it on and stores nothing.

The old container is not trusted: the bot passes its lines on without interpreting them, and the receiver only writes
files as the web server's or the database's user, each in its place (`mautic_ctl/own.py`). So the new container has a
system that nobody has ever worked in, whatever happened to the old one. See ADR 29.
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
"""Seconds that a transfer may take while the tenant serves, and while it is closed."""
MOST = 1 << 41
"""Most bytes that are passed on; the disk's limit bounds what is written."""
LONGEST = 1 << 20
"""Most bytes of one line."""


@dataclass(frozen=True)
class Brought:
    """What one transfer brought: files and bytes, and the seconds it took."""

    files: int
    bytes: int
    seconds: float


class Own:
    """Transfers a tenant's own data from an instance of one host into an instance of the same or another host."""

    def __init__(self, source: Mautic, target: Mautic) -> None:
        self._source = source
        self._target = target

    def bring(self, instance: str, candidate: str, *, same: bool, closed: bool = False) -> Brought:
        """Bring what the candidate does not have yet.

        Raises LxdError, after which the next call may have to bring all of it again.

        Args:
            instance: the source, which runs; it may serve meanwhile.
            candidate: the target, which runs and is closed.
            same: whether both have the same release, so that its files that were changed by hand are brought too.
            closed: whether the source is closed and its database does not run.
        """
        timeout, word = (CLOSED if closed else LIVE), secrets.token_hex(8)
        with self._target.asked(candidate, "take_own", {"word": word}, timeout) as taking:
            known = decode(candidate, "taking", taking.line())["known"]
            request = {"word": word, "known": known, "same": same}
            with self._source.asked(instance, "send_own", request, timeout, MOST) as sending:
                try:
                    self._pass_on(instance, sending, taking)
                except TenantAnswerError:
                    # The receiver may have failed first, with a reason of its own.
                    _reason(candidate, taking)
                    raise
                told: dict[str, Any] = decode(instance, "send_own", sending.line())
            decode(candidate, "take_own", taking.line())
        return Brought(told["files"], told["bytes"], told["seconds"])

    def _pass_on(self, instance: str, sending: Talk, taking: Talk) -> None:
        while True:
            line = sending.line(LONGEST)
            if line[:1] == b"{":
                # The sender has failed and gives the reason.
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
        """Turn a candidate into the tenant, with its blueprint's release staged: {version, mariadb, cached, seconds}.

        Args:
            since: when the tenant was created, in epoch seconds.
            off: whether its outbound mail is off.
            same: as in `bring`.
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
    """Raise LxdError with the reason that the receiver gives for its end, if it gives one."""
    with suppress(TenantAnswerError):
        decode(candidate, "take_own", taking.line())
