"""Finds blueprints on a tenant's host, and copies them there if need be."""

from __future__ import annotations

import threading
from contextlib import suppress

from bot.engine.context import Run
from bot.engine.steps import remove
from bot.fleet.inventory import Host
from bot.lxd.protocol import Instance, NotFound
from bot.model.labels import Role, as_labels, label_of, moment_of, role_of
from bot.model.plan import Refused
from bot.model.tenants import Tenant

_BRINGING = threading.Lock()
"""Held while an operation copies a blueprint to a host, so that only one does at a time."""


def blueprint_on(host: Host, blueprint: Tenant) -> Instance | None:
    """Return a blueprint, or a copy of it, on a host; None if it has to be copied there.

    A blueprint of the same version with another recipe, archive or set of Debian packages is a different one. Requests
    stored before recipe and archive were recorded name neither, and any blueprint of their version will do.
    """
    wanted = blueprint.version, blueprint.recipe, blueprint.archive
    for one in host.lxd.instances():
        if role_of(one.config) != Role.BLUEPRINT or (one.location or host.server) != host.name:
            continue
        version, recipe, archive = (label_of(one.config, fact) for fact in ("version", "recipe", "archive"))
        base = label_of(one.config, "base") or label_of(one.config, "created")
        if wanted == (version, "", "") or (
            wanted == (version, recipe, archive) and blueprint.base in (0, moment_of(base))
        ):
            return one
    return None


def bring_blueprint(run: Run, host: Host, blueprint: Tenant) -> None:
    """Copy a blueprint to a host, unless the host has it."""
    with _BRINGING:
        if blueprint_on(host, blueprint) is None:
            _bring(run, host, blueprint)


def the_blueprint(host: Host, blueprint: Tenant) -> Instance:
    """Return a blueprint, or a copy of it, on a host; raise Refused if it is gone."""
    here = blueprint_on(host, blueprint)
    if here is None:
        raise Refused(f"`{host.name}` no longer has a blueprint of Mautic {blueprint.version}.")
    return here


def _bring(run: Run, host: Host, blueprint: Tenant) -> None:
    source = run.fleet.of(blueprint)
    # Names of instances are unique in a whole cluster.
    name = blueprint.instance + (f"--{host.name}" if source.server == host.server else "")
    with suppress(NotFound):
        left = host.lxd.instance(name)
        if role_of(left.config) == Role.INCOMING:
            # An interrupted copy.
            remove(host.lxd, left.name)
    mark = as_labels(role=Role.INCOMING, operation=run.operation)
    host.lxd.receive(source.lxd, blueprint.instance, name, config=mark, devices={}, refresh=False)
    host.lxd.update(name, as_labels(role=Role.BLUEPRINT))
