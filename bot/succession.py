"""A new container takes the place of a tenant's present one: the heir is made and tried beside it, then the two change.

Restore and migrate share this. The present one is kept, stopped and protected, as a *former* container. Until the heir
serves, everything can be taken back. Nothing is renamed: the heir is called `<tenant>--<operation>`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from bot import containment
from bot.fleet import Host, only
from bot.labels import KEY, Role, State, replacing, role_of, stamp, stamps, state_of
from bot.lxd import Instance, LxdError, LxdUnavailable, NotFound, PoolFull
from bot.mautic import SEAL
from bot.messages import kept_for
from bot.outbound import settle_again
from bot.plan import Refused
from bot.registry import Context
from bot.steps import patiently, refuse_half_way, remove, see_login_page, wait_for_address
from bot.tenants import Tenant

ANSWER = 5.0
"""Seconds that a host may take to answer while a tenant waits for it."""
_NOT_REPLACED = {"reason": "", "replaced_by": "", "replaced_in": ""}
_OWN = ("tenant", "domain", "plan", "note", "version", "double", "created", "outbound")
"""What is said of a tenant, whichever container it is in."""


def present(context: Context, tenant: str) -> Tenant:
    """Return a tenant's present container, also when the operation that is going on has put an heir in its place."""
    seen = context.fleet.look(Role.TENANT, Role.FORMER)
    heir = f"{tenant}--{context.operation}"
    there = [one for one in seen.tenants if one.name == tenant and one.instance != heir]
    if held := [one for one in there if one.role == Role.TENANT or _replaced_now(context, one)]:
        old = only(held)
        refuse_half_way(context, old)
        return old
    for why in seen.silent.values():
        if context.operations.committed(context.operation):
            return _as_the_heir_tells(context, tenant, heir)
        raise LxdUnavailable(why)
    return context.fleet.tenant(tenant, seen.tenants)


def _replaced_now(context: Context, one: Tenant) -> bool:
    """Whether the operation that is going on has put another container in the place of this one."""
    return bool(context.operation) and one.replaced_in == context.operation


def _as_the_heir_tells(context: Context, tenant: str, heir: str) -> Tenant:
    """Return the old one, whose host is silent, once nothing more is needed of it: the heir knows where it stands."""
    seen = context.fleet.look(Role.TENANT, Role.INCOMING)
    for one in seen.tenants:
        if one.instance == heir:
            told = stamp(context.fleet.of(one).lxd.instance(heir).config, "from")
            server, member, instance = told.split("/")
            return replace(
                one,
                server=server,
                member=member,
                host=member or server,
                instance=instance,
                role=Role.TENANT,
                state=State.MOVING,
            )
    context.fleet.refuse_blindness(seen)
    raise Refused(f"There is no container `{heir}` any more, which served as `{tenant}`.")


def retire(context: Context, old: Tenant, command: str, operation: int) -> None:
    """Keep a container that another has taken the place of in an operation, stopped, for the policy's days."""
    lxd = context.fleet.of(old).lxd
    if role_of(lxd.instance(old.instance).config) == Role.TENANT:
        days = context.settings.retention.former_days
        now = int(context.now())
        until = now + days * 86_400 if days else 0
        former = stamps(role=Role.FORMER, state=State.NONE, kept_until=until, retired=now)
        lxd.update(old.instance, {**former, **replacing(command, operation), "boot.autostart": "false"})
    containment.stop(lxd, old.instance)


class Succession:
    """The steps of one operation; each looks before it acts.

    Args:
        old: the tenant as it is; it stands on `source`, and the heir comes to `target`.
        verb: `restore` or `migrate`, in which with the operation's number the old one became a former one.
        rests: the old one stands still on purpose, and does so again when it is given back.
    """

    def __init__(self, context: Context, old: Tenant, target: Host, verb: str, *, rests: bool = False) -> None:
        self.context = context
        self.old = old
        self.rests = rests
        self.source = context.fleet.of(old)
        self.target = target
        self.verb = verb
        self.name = f"{old.name}--{context.operation}"
        self._given_up = threading.Event()

    def old_instance(self) -> Instance:
        """Return the old container as it stands."""
        return self.source.lxd.instance(self.old.instance)

    def made(self) -> Instance | None:
        """Return the heir, None when it is not there; refuse a stranger's."""
        try:
            instance = self.target.lxd.instance(self.name)
        except NotFound:
            return None
        if stamp(instance.config, "operation") != str(self.context.operation):
            raise Refused(f"There is an instance `{self.name}` that this operation did not make; rename or remove it.")
        return instance

    def config(self) -> dict[str, str]:
        """Return what is laid over the heir's configuration: the old one's facts and limits, and that it waits."""
        config = self.old_instance().config
        own = {KEY + name: stamp(config, name) for name in _OWN}
        limits = {key: value for key, value in config.items() if key.startswith("limits.")}
        mark = stamps(role=Role.INCOMING, state=State.MOVING, operation=self.context.operation, copied="")
        # One of a snapshot of while it was suspended would be none of the network; it has an address of its own.
        mark |= stamps(network_before="", **{"from": f"{self.old.server}/{self.old.member}/{self.old.instance}"})
        return {**own, **limits, **mark, "boot.autostart": "false", "security.protection.delete": "true"}

    def devices(self) -> Mapping[str, Mapping[str, str]]:
        """Return the heir's own devices: the disk, of the size that the old one has."""
        return {"root": dict(self.old_instance().devices["root"])}

    def copied(self, *, whole: bool) -> bool:
        """Whether the heir is there as a whole; what a cut copy, or an earlier try, left is removed.

        `whole`: mark it as that now.
        """
        instance = self.made()
        if instance is None:
            return False
        untouched = state_of(instance.config) != State.LIVE or self.serves()
        if whole or (stamp(instance.config, "copied") and untouched):
            self.target.lxd.update(self.name, stamps(copied=1))
            return True
        self.discard()
        return False

    def probed(self) -> bool:
        """Whether its page was seen, in whichever try: then the heir serves for good, and nothing is taken back."""
        return self.context.operations.committed(self.context.operation)

    def serves(self) -> bool:
        """Whether the heir is open, and the old one has not gone on since: then what a retry begins anew is done."""
        instance = self.made()
        if instance is None or state_of(instance.config) != State.LIVE:
            return False
        if self.probed():
            return True
        old = self.old_instance().config
        return (role_of(old), state_of(old)) != (Role.TENANT, State.LIVE)

    def discard(self) -> None:
        """Take the heir away."""
        instance = self.made()
        if instance is None:
            return
        if role_of(instance.config) == Role.TENANT or self.probed():
            raise Refused(f"`{self.name}` is the tenant by now, and is not removed.")
        remove(self.target.lxd, self.name, self._given_up.is_set)

    def start(self) -> str:
        """Start the heir, sealed, and wait until Mautic's login page is there inside and it has its address."""
        self.boot()
        return self.await_page()

    def boot(self) -> None:
        """Start the heir, sealed."""
        self.target.start(self.name, urgent=True)

    def await_page(self) -> str:
        """Wait until Mautic's login page is there inside, closed as it may be, and the heir has its address."""
        took = self.target.mautic.wait_for_page(self.name)
        wait_for_address(self.target.lxd, self.name)
        return f"login page inside in {took:.2f} s"

    def change(self) -> None:
        """Open the heir's pages, and route to it. Until one is seen it is mute, and the closed old one the tenant."""
        self.target.lxd.remove(self.name, SEAL)
        self.target.lxd.update(self.name, stamps(state=State.LIVE))
        self.context.edge.apply()

    def probe(self) -> str:
        """See the login page through the edge: from then on there is no way back."""
        return see_login_page(self.context.edge, self.old.domain)

    def keep(self) -> str:
        """Let the heir's workers begin, make it the tenant, and keep the old one, stopped.

        The old one's host may be out of reach for good: then nothing waits for it any longer.
        """
        patiently(lambda: self.target.mautic.open(self.name))
        # The heir first: at no moment is there none.
        tenant = {**stamps(role=Role.TENANT), "boot.autostart": "true"}
        patiently(lambda: self.target.lxd.update(self.name, tenant))
        before = f"the container of before, {self.old.instance},"
        try:
            patiently(lambda: retire(self.context, self.old, self.verb, self.context.operation))
        except LxdUnavailable as error:
            return f"{before} on {self.source.name} is kept as soon as that host answers: {error}"
        return f"{before} is kept, stopped, {kept_for(self.context.settings.retention.former_days)}"

    def give_back(self) -> str | None:
        """Let the old one go on, as it was, and take the heir away; say what could not be taken away yet.

        Raises Refused when the heir serves already: then only what comes after is to be tried again.
        """
        if self.probed():
            raise Refused("the new container serves, and only what comes after that failed; Retry goes on there.")
        try:
            return self._give_back()
        finally:
            # What comes late must not touch what a retry makes.
            self._given_up.set()

    def _give_back(self) -> str | None:
        # While the old one cannot be asked, an open heir may be all that clients have.
        patiently(self.old_instance)
        # A host that is out of reach must not keep the old one waiting.
        thread = ThreadPoolExecutor(1, "discard")
        with suppress(TimeoutError, LxdError):
            thread.submit(self._stop).result(ANSWER)
        patiently(self._let_go_on)
        # Not before the old one goes on: until then the heir may be all that there is.
        removing = thread.submit(self.discard)
        left = f"`{self.name}` on {self.target.name} could not be removed"
        try:
            removing.result(ANSWER)
        except (TimeoutError, LxdUnavailable):
            return f"{left} yet; it is as soon as that host answers"
        except LxdError as error:
            return f"{left}: {error}"
        return None

    def _stop(self) -> None:
        if self.made() is not None and not self._given_up.is_set():
            self.target.lxd.stop(self.name, force=True)

    def _let_go_on(self) -> None:
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
            settle_again(self.context, self.old)
            self.source.mautic.unquiesce(self.old.instance)
            wait_for_address(self.source.lxd, self.old.instance)
            stamped["boot.autostart"] = "true"
        self.source.lxd.update(self.old.instance, stamped)
        self.context.edge.apply()
