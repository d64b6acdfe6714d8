"""Cutover: another container, the candidate, replaces a tenant's present one, or the present one keeps serving.

A command decides how the candidate is made, and in which order the steps run; closing, the safety snapshot, starting
closed, probing, switching, keeping and rolling back are the same for all. The present container is changed as little as
possible, so that a rollback just keeps using it. From the commit point on, when the candidate's page has answered, the
candidate is the tenant for good; the previous container is then retired: kept, stopped and protected. Nothing is
renamed: the candidate is called `<tenant>--<operation>`. Longer than other modules, because its one class is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from bot.engine.context import Run
from bot.engine.copies import WHOLE, Copy, ensure_closed, is_whole
from bot.engine.outbound import settle_again
from bot.engine.placement import LEAST
from bot.engine.snapshots import NewSnapshot, safety, take
from bot.engine.steps import patiently, remove, see_login_page, wait_for_address
from bot.fleet import ballast, containment
from bot.fleet.inventory import Host
from bot.guest.mautic import CLOSED
from bot.lxd.protocol import Instance, LxdError, LxdUnavailable, PoolFull
from bot.model.labels import KEY, Role, State, as_labels, label_of, replacing, role_of, state_of
from bot.model.plan import Refused
from bot.model.tenants import Tenant, candidate_name
from bot.model.text import kept_for
from bot.store import progress
from bot.store.operation import SYSTEM

CLOCKS = 60.0
"""Seconds by which the clocks of the bot and of a host may differ."""
OPEN = 600.0
"""Seconds after which a person decides about what was written to an open candidate; a probe takes 90 at most."""
ANSWER = 5.0
"""Seconds within which a host has to answer while a tenant waits."""
_NOT_REPLACED = {"reason": "", "replaced_by": "", "replaced_in": ""}
_OWN = ("tenant", "domain", "plan", "note", "tags", "double", "created", "outbound")
"""The labels of a tenant, whichever container serves it. The version comes from what the candidate is made of."""
Make = Callable[[Mapping[str, str], Mapping[str, Mapping[str, str]]], None]
"""Makes the candidate, with this configuration on top, and with these devices of its own."""


def retire(run: Run, old: Tenant, command: str, operation: int, days: int) -> None:
    """Retire a container that an operation replaced: keep it, stopped, for `days`; 0: for ever."""
    lxd = run.fleet.of(old).lxd
    if role_of(lxd.instance(old.instance).config) == Role.TENANT:
        now = int(run.now())
        until = now + days * 86_400 if days else 0
        retired = as_labels(role=Role.RETIRED, state=State.NONE, kept_until=until, retired=now)
        lxd.update(old.instance, {**retired, **replacing(command, operation), "boot.autostart": "false"})
    containment.stop(lxd, old.instance)


class Cutover:
    """One operation's cutover. Queries change nothing; effects look before they act, and are safe to repeat.

    Longer than other classes, so that the way there and the way back of one container can be read together.

    Args:
        old: the tenant when the operation began; the candidate is made on `target`.
        command: recorded, with the operation's number, as the reason.
        days: for which the old container is kept; 0: until somebody purges it.
        rests: the old container is stopped on purpose, and stays so after a rollback.
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
        self.opened_again = 0.0
        """When a rollback put the old container back into service, in epoch seconds; 0: it did not have to."""

    # -- queries ------------------------------------------------------------------------------------------------

    @property
    def source(self) -> Host:
        """The host of the old container; raises LxdUnavailable if that is no longer in the settings."""
        return self.run.fleet.of(self.old)

    def old_instance(self) -> Instance:
        """Return the old container as it is now."""
        return self.source.lxd.instance(self.old.instance)

    def candidate(self) -> Instance | None:
        """Return the candidate, or None if there is none; raise Refused for one of another operation."""
        return self._copy.found()

    def is_copied(self) -> bool:
        """Return whether the candidate is complete and usable.

        A candidate that was open is outdated if the old container has served again since.
        """
        instance = self.candidate()
        return instance is not None and self._is_copied(instance)

    def _is_copied(self, instance: Instance) -> bool:
        if not is_whole(instance):
            return False
        return state_of(instance.config) != State.LIVE or self._serves(instance)

    def serves(self) -> bool:
        """Return whether the candidate is open and the old one has not served since, so a retry has nothing to redo."""
        instance = self.candidate()
        return instance is not None and self._serves(instance)

    def _serves(self, instance: Instance) -> bool:
        if state_of(instance.config) != State.LIVE:
            return False
        return self.is_committed() or self._is_replaced()

    def is_committed(self) -> bool:
        """Return whether the candidate's page answered in any try: then the candidate serves for good."""
        return self.run.operations.committed(self.run.operation)

    # -- making the candidate -----------------------------------------------------------------------------------

    def snapshot(self) -> NewSnapshot:
        """Take the safety snapshot, once per try."""
        return take(self.run, self.old, why=safety(self.command, self.run.operation))

    def make(self, make: Make, *, closed: bool = False, whole: bool = True) -> None:
        """Make the candidate, unless a complete one exists; what an earlier try left incomplete is deleted first.

        `closed`: its source is closed already; otherwise the candidate is closed here, so that it starts closed.
        `whole`: it is complete once it is made; otherwise a later change labels it complete, the switch at the latest.
        """

        def copy() -> None:
            old = self.old_instance()
            make(self.over(old), {"root": dict(old.devices["root"])})
            if not closed:
                ensure_closed(self.target, self.name)

        def fits(instance: Instance) -> bool:
            fit = self._is_copied(instance)
            if not fit:
                self._refuse_to_remove(instance)
            return fit

        self._copy.make(copy, fits, labelled=whole)

    def doubt(self) -> None:
        """Have a retry make the candidate again: the next change may spoil it if interrupted."""
        self._copy.doubt()

    def over(self, old: Instance) -> dict[str, str]:
        """Return the candidate's configuration: the old container's labels and limits, and a candidate's labels."""
        own = {KEY + name: label_of(old.config, name) for name in _OWN}
        limits = {key: value for key, value in old.config.items() if key.startswith("limits.")}
        mark = as_labels(role=Role.INCOMING, state=State.MOVING, operation=self.run.operation, copied="")
        # A copy of a suspended tenant has the label of a cut network; the candidate gets an address of its own.
        mark |= as_labels(network_before="", **{"from": f"{self.old.server}/{self.old.member}/{self.old.instance}"})
        mark |= as_labels(cutover=self.command)
        return {**own, **limits, **mark, "boot.autostart": "false", "security.protection.delete": "true"}

    def _refuse_to_remove(self, instance: Instance) -> None:
        if role_of(instance.config) == Role.TENANT or self.is_committed():
            raise Refused(f"`{self.name}` is now the live tenant, and is not deleted.")

    def _discard(self) -> None:
        """Delete the candidate; stop between two calls once the rollback was given up."""
        instance = self.candidate()
        if instance is not None:
            self._refuse_to_remove(instance)
            remove(self.target.lxd, self.name, self._given_up.is_set)

    # -- the cutover --------------------------------------------------------------------------------------------

    def start(self) -> str:
        """Start the candidate, closed, and wait until it has its address and the login page answers inside.

        Meanwhile the edge that clients come to and that of the candidate's host learn the route, so that nobody waits
        for them once the candidate is open.
        """
        self.boot()
        with ThreadPoolExecutor(1, "beside") as beside:
            routed = beside.submit(self.run.edge.apply, ahead=self.name)
            told = self.await_page()
            routed.result()
        return told

    def boot(self) -> None:
        """Start the candidate, closed."""
        self.target.start(self.name, urgent=True)

    def await_page(self) -> str:
        """Wait until the login page answers inside, closed or not, and the candidate has its address."""
        took = self.target.mautic.wait_for_page(self.name)
        wait_for_address(self.target.lxd, self.name)
        return f"login page inside in {took:.2f} s"

    def close(self) -> str | None:
        """Close the old container, with all data on disk: nothing is written after that. `resting` stops it."""
        self.source.lxd.update(self.old.instance, {**as_labels(state=State.MOVING), "boot.autostart": "false"})
        if not self.old_instance().running:
            # Neither the container nor its copy may work before it is clear which of them serves.
            self.source.mautic.close_copy(self.old.instance)
            return "already stopped"
        self.source.mautic.quiesce(self.old.instance)
        return None

    @contextmanager
    def resting(self, *, snapshot: bool = False) -> Iterator[None]:
        """Stop the closed old container in a thread, then take the safety snapshot, if wanted; wait for it at the end.

        A stop by LXD lasts half a second longer than necessary, because lxcfs sleeps; clients need not wait for that.
        """

        def rest() -> None:
            # All data is on disk and nothing runs any more: a forced stop loses nothing.
            self.source.lxd.stop(self.old.instance, force=True)
            if snapshot:
                self.snapshot()

        with ThreadPoolExecutor(1, "rest") as beside:
            rested = beside.submit(rest)
            yield
            rested.result()

    def silence(self, *beside: Callable[[], None]) -> None:
        """Stop the old container from serving and sending while it keeps running; meanwhile call each of `beside`.

        With `beside`, the edge learns the route to the candidate at the same time. Otherwise only afterwards, because
        the old container serves until its work has ended, and the candidate is closed.
        """
        # From this label a retry knows that the candidate may serve already.
        self.source.lxd.update(self.old.instance, as_labels(state=State.MOVING))
        with ThreadPoolExecutor(1 + len(beside), "beside") as threads:
            begun = [threads.submit(one) for one in ((self._route_ahead, *beside) if beside else ())]
            if self.old_instance().running:
                # Only one of the two may send mail, and an attacker may control the old one.
                try:
                    self.source.mautic.stop_work(self.old.instance)
                except LxdError:
                    containment.stop(self.source.lxd, self.old.instance)
            for one in begun:
                one.result()
        if not beside:
            self._route_ahead()

    def _route_ahead(self) -> None:
        self.run.edge.apply(ahead=self.name)

    def switch_beside(self) -> None:
        """Silence the old container and switch at the same time, for a candidate that needs nothing more from it."""
        self.silence(self._open)
        self.run.edge.apply()

    def switch(self) -> None:
        """Open the candidate's pages, and route to it; the old container, now closed, keeps the tenant's label.

        The candidate sends nothing until its page has answered.
        """
        self._open()
        self.run.edge.apply()

    def _open(self) -> None:
        self.target.lxd.remove(self.name, CLOSED)
        self.target.lxd.update(self.name, {**as_labels(state=State.LIVE), **WHOLE})

    def probe(self) -> str:
        """Check the login page through the edge: that is the commit point."""
        return see_login_page(self.run.edge, self.old.domain)

    def keep(self) -> str:
        """Start the candidate's workers, label it as the tenant, and retire the old container.

        The old container's host may be lost for good, so the operation does not fail if that host is unreachable.
        """
        patiently(lambda: self.target.mautic.open(self.name))
        # The candidate first, so that some container is the tenant at every moment.
        tenant = {**as_labels(role=Role.TENANT), "boot.autostart": "true"}
        patiently(lambda: self.target.lxd.update(self.name, tenant))
        before = f"previous container {self.old.instance}"
        try:
            patiently(lambda: retire(self.run, self.old, self.command, self.run.operation, self.days))
        except LxdUnavailable as error:
            return f"{before} on {self.old.host} is retired as soon as that host answers: {error}"
        return f"{before} kept, stopped, {kept_for(self.days)}"

    def keep_with_snapshot(self) -> str:
        """Do all of `keep`, take the safety snapshot of the old container, and return how to go back to it, in words.

        Clients no longer wait by then, and since the old container is stopped, all data written to it is on its disk.
        """
        kept, taken = self.keep(), self.snapshot()
        return f"{kept}; safety snapshot {taken.words}. To undo: `/mautic restore {self.old.name} {taken.name}`"

    # -- rolling back -------------------------------------------------------------------------------------------

    def roll_back(self) -> str | None:
        """Put the old container back into service, and delete the candidate; return what could not be deleted yet.

        Raises Refused after the commit point, when only a retry of the rest is possible, and for a candidate that
        clients could write to for long, unless a person chose Undo.
        """
        if self.is_committed():
            raise Refused("The new container already serves; Retry finishes the rest.")
        # While the old container cannot be reached, an open candidate may be all that clients have.
        patiently(self.old_instance)
        if since := self._has_served():
            opened = f"since {self.run.renderer.moment(since)}"
            if since > self.run.now():
                opened = "for an unknown time, because the clock was ahead when that was opened"
            raise Refused(
                f"Clients have been able to write to the new container {opened}. Retry keeps that, Undo deletes it."
            )
        try:
            return self._roll_back()
        finally:
            # A late call must not touch what a retry makes.
            self._given_up.set()

    def _has_served(self) -> float:
        """Return since when the candidate has been open, if for over OPEN seconds and no person chose Undo; else 0.

        A time in the future, recorded by a clock that was ahead, counts as long ago.

        That happens after a kill at the switch: the bot may have been down for hours, and a single late page must then
        not delete what clients wrote in these hours.
        """
        operation = self.run.operations.get(self.run.operation)
        made = None
        try:
            candidate = self.candidate() if operation.undo_by in ("", SYSTEM) and self.serves() else None
            if candidate is None:
                return 0
            # If a clock that was ahead dated its creation, every opening since the last rollback counts.
            made = candidate.created - CLOCKS if candidate.created - CLOCKS <= self.run.now() else None
        except LxdUnavailable:
            # Whatever clients wrote while the old container was closed is on the server that does not answer.
            if not self._is_replaced():
                return 0
        except LxdError:
            return 0
        opened = progress.switched(self.run.operations, operation, made)
        return opened if opened and not -CLOCKS <= self.run.now() - opened <= OPEN else 0

    def _is_replaced(self) -> bool:
        """Whether the old container is closed for the candidate, or retired."""
        old = self.old_instance().config
        return (role_of(old), state_of(old)) != (Role.TENANT, State.LIVE)

    def _roll_back(self) -> str | None:
        # An unreachable host must not delay the old container.
        thread = ThreadPoolExecutor(1, "discard")
        with suppress(TimeoutError, LxdError):
            thread.submit(self._stop).result(ANSWER)
        try:
            patiently(self._go_on)
        except LxdUnavailable:
            raise
        except LxdError as error:
            self._go_on_without_space(error)
        # Not before the old container serves: until then the candidate may be all that there is.
        removing = thread.submit(self._discard)
        left = f"rolled back, but `{self.name}` on {self.target.name} could not be deleted"
        try:
            removing.result(ANSWER)
        except (TimeoutError, LxdUnavailable):
            return f"{left} yet; the bot deletes that container as soon as the host answers"
        except LxdError as error:
            return f"{left}: {error}"
        return None

    def _stop(self) -> None:
        if self.candidate() is not None and not self._given_up.is_set():
            self.target.lxd.stop(self.name, force=True)

    def _go_on_without_space(self, error: LxdError) -> None:
        """Put the old container back into service on a full pool, where nothing starts, by deleting the candidate.

        Raises `error` again if the pool is not full, if the candidate is on another host, and if it was open, because
        it may then have data that the old container lacks.
        """
        candidate = self.candidate()
        if candidate is None or state_of(candidate.config) == State.LIVE or self.target.name != self.source.name:
            raise error
        space = self.source.lxd.pool()
        if not isinstance(error, PoolFull) and space.total - space.used > LEAST:
            raise error
        self._discard()

        def go_on() -> None:
            try:
                patiently(self._go_on)
            except LxdUnavailable:
                raise
            except LxdError as error:
                # MariaDB reports a full pool with another error than LXD does.
                raise PoolFull(str(error)) from error

        ballast.with_space(self.source, go_on, freed=True)

    def _go_on(self) -> None:
        """Open the old container again, and start it unless it is stopped on purpose."""
        config = self.old_instance().config
        if (role_of(config), state_of(config)) == (Role.TENANT, State.LIVE):
            # The old container was not changed yet.
            return
        stamped = as_labels(role=Role.TENANT, state=State.LIVE, kept_until="", retired="", **_NOT_REPLACED)
        if not self.rests:
            if not self.old_instance().running:
                with suppress(PoolFull):
                    # Muted until its mail is settled; `unquiesce` ends that.
                    self.source.mautic.mute(self.old.instance)
            self.source.start(self.old.instance, urgent=True)
            # The container may have been down for days, and mail may be late.
            settle_again(self.run, self.old)
            self.source.mautic.unquiesce(self.old.instance)
            wait_for_address(self.source.lxd, self.old.instance)
            stamped["boot.autostart"] = "true"
        self.source.lxd.update(self.old.instance, stamped)
        self.run.edge.apply()
        self.opened_again = self.run.now()
