"""Cutover: another container takes the place of a tenant's present one, or the present one goes on.

A command says how the candidate is made, and in which order; closing, the snapshot of before, starting closed, probing,
switching, keeping and rolling back are the same for all. The present container is touched no more than that needs, so
that to roll back is to go on with it. At the commit point, when the page of the candidate was seen, the candidate is
the tenant for good; the one of before is then retired: kept, stopped and protected. Nothing is renamed: the candidate
is called `<tenant>--<operation>`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from bot.engine.context import Run
from bot.engine.copies import Copy, is_whole
from bot.engine.outbound import settle_again
from bot.engine.snapshots import take
from bot.engine.steps import patiently, remove, see_login_page, wait_for_address
from bot.fleet import containment
from bot.fleet.inventory import Host
from bot.guest.mautic import SEAL
from bot.lxd.protocol import Instance, LxdError, LxdUnavailable, PoolFull
from bot.model.labels import KEY, Role, State, replacing, role_of, stamp, stamps, state_of
from bot.model.plan import Refused
from bot.model.tenants import Tenant, candidate_name
from bot.model.text import kept_for

ANSWER = 5.0
"""Seconds that a host may take to answer while a tenant waits for it."""
_NOT_REPLACED = {"reason": "", "replaced_by": "", "replaced_in": ""}
_OWN = ("tenant", "domain", "plan", "note", "version", "double", "created", "outbound")
"""What is said of a tenant, whichever container it is in."""
Make = Callable[[Mapping[str, str], Mapping[str, Mapping[str, str]]], None]
"""Makes the candidate, with this laid over its configuration, and with these devices of its own."""


def retire(run: Run, old: Tenant, command: str, operation: int, days: int) -> None:
    """Keep a container that another has taken the place of in an operation, stopped; `days`: 0 for ever."""
    lxd = run.fleet.of(old).lxd
    if role_of(lxd.instance(old.instance).config) == Role.TENANT:
        now = int(run.now())
        until = now + days * 86_400 if days else 0
        retired = stamps(role=Role.FORMER, state=State.NONE, kept_until=until, retired=now)
        lxd.update(old.instance, {**retired, **replacing(command, operation), "boot.autostart": "false"})
    containment.stop(lxd, old.instance)


class Cutover:
    """One operation's cutover. Queries change nothing; effects look before they act, and are safe to do again.

    Args:
        old: the tenant as it was when the operation began; the candidate comes to `target`.
        command: by which, with the operation's number, the old one is replaced.
        days: for which the old one is kept; 0: until somebody purges it.
        rests: the old one stands still on purpose, and does so again when it goes on.
    """

    def __init__(self, run: Run, old: Tenant, target: Host, command: str, *, days: int, rests: bool = False) -> None:
        self.run = run
        self.old = old
        self.target = target
        self.command = command
        self.days = days
        self.rests = rests
        self.name = candidate_name(old.name, run.operation)
        self._copy = Copy(target.lxd, self.name, run.operation)
        self._given_up = threading.Event()

    # -- queries ------------------------------------------------------------------------------------------------

    @property
    def source(self) -> Host:
        """The host of the old one; raises LxdUnavailable where the settings have it no more."""
        return self.run.fleet.of(self.old)

    def old_instance(self) -> Instance:
        """Return the old container as it stands."""
        return self.source.lxd.instance(self.old.instance)

    def candidate(self) -> Instance | None:
        """Return the candidate, None when it is not there; refuse a stranger's."""
        return self._copy.found()

    def is_copied(self) -> bool:
        """Whether the candidate is there as a whole, and fit to go on with.

        One that was open while the old one has gone on since holds what nobody reads any more.
        """
        instance = self.candidate()
        return instance is not None and self._is_copied(instance)

    def _is_copied(self, instance: Instance) -> bool:
        if not is_whole(instance):
            return False
        return state_of(instance.config) != State.LIVE or self._serves(instance)

    def serves(self) -> bool:
        """Whether the candidate is open, and the old one has not gone on since: what a retry begins anew is done."""
        instance = self.candidate()
        return instance is not None and self._serves(instance)

    def _serves(self, instance: Instance) -> bool:
        if state_of(instance.config) != State.LIVE:
            return False
        if self.is_committed():
            return True
        old = self.old_instance().config
        return (role_of(old), state_of(old)) != (Role.TENANT, State.LIVE)

    def is_committed(self) -> bool:
        """Whether its page was seen, in whichever try: then the candidate serves for good."""
        return self.run.operations.committed(self.run.operation)

    # -- making the candidate -----------------------------------------------------------------------------------

    def snapshot(self) -> str:
        """Take the snapshot of before, once a try."""
        return take(self.run, self.old, why=f"before {self.command} {self.run.operation}")

    def make(self, make: Make, *, closed: bool = False) -> None:
        """Have the candidate there as a whole: what an earlier try left that is none is removed, and it is made anew.

        `closed`: what it is made of was closed already; otherwise it is closed, so that it starts so.
        """

        def copy() -> None:
            old = self.old_instance()
            make(self.over(old), {"root": dict(old.devices["root"])})
            if not closed:
                self.target.mautic.seal(self.name, mute=False)

        def fits(instance: Instance) -> bool:
            fit = self._is_copied(instance)
            if not fit:
                self._refuse_to_remove(instance)
            return fit

        self._copy.make(copy, fits)

    def doubt(self) -> None:
        """Let a retry make the candidate anew: what changes it now may spoil it if it is cut."""
        self._copy.doubt()

    def over(self, old: Instance) -> dict[str, str]:
        """Return what is laid over the candidate's configuration: the old one's facts and limits, and that it waits."""
        own = {KEY + name: stamp(old.config, name) for name in _OWN}
        limits = {key: value for key, value in old.config.items() if key.startswith("limits.")}
        mark = stamps(role=Role.INCOMING, state=State.MOVING, operation=self.run.operation, copied="")
        # One of a snapshot of while it was suspended would be none of the network; it has an address of its own.
        mark |= stamps(network_before="", **{"from": f"{self.old.server}/{self.old.member}/{self.old.instance}"})
        mark |= stamps(cutover=self.command)
        return {**own, **limits, **mark, "boot.autostart": "false", "security.protection.delete": "true"}

    def _refuse_to_remove(self, instance: Instance) -> None:
        if role_of(instance.config) == Role.TENANT or self.is_committed():
            raise Refused(f"`{self.name}` is the tenant by now, and is not removed.")

    def _discard(self) -> None:
        """Remove the candidate, not any further once that was given up."""
        instance = self.candidate()
        if instance is not None:
            self._refuse_to_remove(instance)
            remove(self.target.lxd, self.name, self._given_up.is_set)

    # -- the cutover --------------------------------------------------------------------------------------------

    def start(self) -> str:
        """Start the candidate, closed, and wait until Mautic's login page is there inside and it has its address."""
        self.boot()
        return self.await_page()

    def boot(self) -> None:
        """Start the candidate, closed."""
        self.target.start(self.name, urgent=True)

    def await_page(self) -> str:
        """Wait until Mautic's login page is there inside, closed as it may be, and the candidate has its address."""
        took = self.target.mautic.wait_for_page(self.name)
        wait_for_address(self.target.lxd, self.name)
        return f"login page inside in {took:.2f} s"

    def close(self) -> str | None:
        """Close the old one, with all that it acknowledged on disk, and stop it: nothing comes after the last copy."""
        self.source.lxd.update(self.old.instance, {**stamps(state=State.MOVING), "boot.autostart": "false"})
        if not self.old_instance().running:
            # Neither it nor its copy may work before it is clear which of them goes on.
            self.source.mautic.seal(self.old.instance)
            return "it had been stopped"
        self.source.mautic.quiesce(self.old.instance)
        # All is on disk and nothing works any more, so that there is no peace to wait for.
        self.source.lxd.stop(self.old.instance, force=True)
        return None

    def silence(self) -> None:
        """Let the old one serve and send nothing more, though it runs on: for a candidate that needs nothing of it."""
        # A retry learns from it that the candidate may serve already.
        self.source.lxd.update(self.old.instance, stamps(state=State.MOVING))
        if self.old_instance().running:
            # Only one of the two may send, and the old one may be what somebody has taken over.
            try:
                self.source.mautic.hush(self.old.instance)
            except LxdError:
                containment.stop(self.source.lxd, self.old.instance)

    def switch(self) -> None:
        """Open the candidate's pages, and route to it; the old one is closed by now, and is the tenant for the moment.

        Until its page was seen the candidate sends nothing.
        """
        self.target.lxd.remove(self.name, SEAL)
        self.target.lxd.update(self.name, stamps(state=State.LIVE))
        self.run.edge.apply()

    def probe(self) -> str:
        """See the login page through the edge: that is the commit point."""
        return see_login_page(self.run.edge, self.old.domain)

    def keep(self) -> str:
        """Let the candidate's workers begin, make it the tenant, and retire the old one.

        The old one's host may be out of reach for good: then nothing waits for it any longer.
        """
        patiently(lambda: self.target.mautic.open(self.name))
        # The candidate first: at no moment is there no tenant.
        tenant = {**stamps(role=Role.TENANT), "boot.autostart": "true"}
        patiently(lambda: self.target.lxd.update(self.name, tenant))
        before = f"the container of before, {self.old.instance},"
        try:
            patiently(lambda: retire(self.run, self.old, self.command, self.run.operation, self.days))
        except LxdUnavailable as error:
            return f"{before} on {self.old.host} is kept as soon as that host answers: {error}"
        return f"{before} is kept, stopped, {kept_for(self.days)}"

    # -- rolling back -------------------------------------------------------------------------------------------

    def roll_back(self) -> str | None:
        """Let the old one go on, as it was, and take the candidate away; say what could not be taken away yet.

        Raises Refused after the commit point: then only what comes after is to be tried again.
        """
        if self.is_committed():
            raise Refused("the new container serves, and only what comes after that failed; Retry goes on there.")
        try:
            return self._roll_back()
        finally:
            # What comes late must not touch what a retry makes.
            self._given_up.set()

    def _roll_back(self) -> str | None:
        # While the old one cannot be asked, an open candidate may be all that clients have.
        patiently(self.old_instance)
        # A host that is out of reach must not keep the old one waiting.
        thread = ThreadPoolExecutor(1, "discard")
        with suppress(TimeoutError, LxdError):
            thread.submit(self._stop).result(ANSWER)
        patiently(self._go_on)
        # Not before the old one goes on: until then the candidate may be all that there is.
        removing = thread.submit(self._discard)
        left = f"`{self.name}` on {self.target.name} could not be removed"
        try:
            removing.result(ANSWER)
        except (TimeoutError, LxdUnavailable):
            return f"{left} yet; it is as soon as that host answers"
        except LxdError as error:
            return f"{left}: {error}"
        return None

    def _stop(self) -> None:
        if self.candidate() is not None and not self._given_up.is_set():
            self.target.lxd.stop(self.name, force=True)

    def _go_on(self) -> None:
        """Open the old one again, and start it unless it rests."""
        config = self.old_instance().config
        if (role_of(config), state_of(config)) == (Role.TENANT, State.LIVE):
            # Nothing was done to it yet.
            return
        stamped = stamps(role=Role.TENANT, state=State.LIVE, kept_until="", retired="", **_NOT_REPLACED)
        if not self.rests:
            if not self.old_instance().running:
                with suppress(PoolFull):
                    # Until it is settled what becomes of its mail; `unquiesce` takes it away.
                    self.source.mautic.mute(self.old.instance)
            self.source.start(self.old.instance, urgent=True)
            # It may have stood half way for days.
            settle_again(self.run, self.old)
            self.source.mautic.unquiesce(self.old.instance)
            wait_for_address(self.source.lxd, self.old.instance)
            stamped["boot.autostart"] = "true"
        self.source.lxd.update(self.old.instance, stamped)
        self.run.edge.apply()
