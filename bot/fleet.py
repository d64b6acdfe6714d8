"""The fleet as LXD tells it: tenants, blueprints, the edge. One request a host for any reading of all."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from bot.lxd import Instance, Lxd
from bot.plan import Refused
from bot.tenants import Role, Tenant, stamp


def _tenant(host: str, instance: Instance, role: Role) -> Tenant:
    facts = {name: stamp(instance.config, name) for name in ("created", "archived", "double")}
    return Tenant(
        name=stamp(instance.config, "tenant") or instance.name,
        host=instance.location if instance.location not in ("", "none") else host,
        instance=instance.name,
        status=instance.status,
        domain=stamp(instance.config, "domain"),
        plan=stamp(instance.config, "plan"),
        version=stamp(instance.config, "version"),
        role=role,
        note=stamp(instance.config, "note"),
        operation=stamp(instance.config, "operation"),
        created=int(facts["created"] or 0),
        archived=int(facts["archived"] or 0),
        double=facts["double"] == "1",
    )


class Fleet:
    """All tenants of one host."""

    def __init__(self, lxd: Lxd, host: str) -> None:
        self.lxd = lxd
        self.host = host

    def all(self, *roles: Role) -> list[Tenant]:
        """Return the instances with one of the roles, in one request, sorted by name."""
        found = [
            _tenant(self.host, instance, role)
            for instance in self.lxd.instances()
            for role in roles
            if stamp(instance.config, "role") == role
        ]
        return sorted(found, key=lambda tenant: tenant.name)

    def tenants(self) -> list[Tenant]:
        """Return the tenants, without archived ones."""
        return self.all("tenant")

    def tenant(self, name: str, among: Sequence[Tenant] | None = None) -> Tenant:
        """Return a tenant by name, or raise Refused with the nearest one there is."""
        known = self.tenants() if among is None else among
        for tenant in known:
            if tenant.name == name:
                return tenant
        near = get_close_matches(name, [tenant.name for tenant in known], n=1)
        hint = f" Did you mean `{near[0]}`?" if near else " `/mautic list` shows all."
        raise Refused(f"There is no tenant `{name}`.{hint}")

    def blueprint(self, version: str = "") -> Tenant:
        """Return the newest blueprint, or that of a version; raise Refused when there is none."""
        known = sorted(self.all("blueprint"), key=lambda blueprint: blueprint.created)
        for blueprint in reversed(known):
            if version in ("", blueprint.version):
                return blueprint
        if known:
            offered = ", ".join(sorted({f"`{blueprint.version}`" for blueprint in known}))
            raise Refused(f"There is no blueprint of Mautic {version}; there is {offered}.")
        raise Refused("There is no blueprint yet; `python -m bot blueprint build` on the bot's machine makes one.")
