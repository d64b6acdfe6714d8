"""Simulates the `mautic-ctl` verbs of an upgrade, on the state of a tenant in memory.

The state records what is staged, carried over and migrated. A test makes a step fail:
`change(lxd, "client-x", breaks={"migrate": "SQLSTATE[42S21]: Column already exists"})`. The key `rows` names tables,
separated by spaces, that lose a row in the migrations, and `count` names tables that take too long to count.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from bot.guest.blueprint.mautic_ctl.stage import ARCHIVE, LEAVE, METADATA, check_runs_here, numbers
from bot.guest.blueprint.mautic_ctl.system import CtlError, in_words
from bot.guest.blueprint.recipe import suite_named
from bot.guest.simulated_state import State, change
from bot.lxd.protocol import Lxd, NotFound
from bot.model.labels import label_of

PACKED = "/root/cache.tar.gz"
MIGRATIONS = {(5, 2, 12): "20250610000000", (6, 0, 0): "20250801000000", (6, 0, 1): "20250915000000"}
"""Each migration, by the version that brings it."""
SCHEMA = (
    "emails column subject longtext null",
    "leads column email varchar(191) null",
    "leads index PRIMARY unique id",
)


class Tenant(Protocol):
    """The parts of a simulated tenant that are needed here."""

    name: str
    state: State

    @property
    def lxd(self) -> Lxd:
        """The server that the tenant is on."""

    def closed_as(self) -> str:
        """Return why the tenant is closed, "" if it is open."""

    def serving(self) -> str:
        """Return the version that serves."""

    def stop(self, *services: str) -> None:
        """Stop services."""

    def start(self, *services: str) -> None:
        """Start services."""

    def disk(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the figures of the tenant's disk, as the verb `disk` does."""


def versions(tenant: Tenant) -> tuple[str, str]:
    """Return the versions of the PHP and the MariaDB that a tenant runs on."""
    suite = suite_named(label_of(tenant.lxd.instance(tenant.name).config, "suite"))
    return f"{suite.php}.29", f"{suite.mariadb}.14-MariaDB"


def must_not_break(tenant: Tenant, step: str) -> None:
    """Raise CtlError if a test wants this step to fail."""
    if step in tenant.state.breaks:
        raise CtlError(f"{step} failed: {tenant.state.breaks[step]}")


def _kept(tenant: Tenant, **fields: Any) -> None:
    tenant.state = change(tenant.lxd, tenant.name, **fields)


def _must_be_closed(tenant: Tenant) -> None:
    if not tenant.closed_as():
        raise CtlError("it is open, and its code and database are not changed under its visitors")


def _own(tenant: Tenant) -> dict[str, Any]:
    nothing: dict[str, Any] = {"themes": [], "translations": [], "overlay": [], "changed": [], "known": True}
    return {"plugins": sorted(tenant.state.plugins), **nothing}


def stage(tenant: Tenant, request: Mapping[str, Any]) -> dict[str, Any]:
    version, before = request["version"], tenant.serving()
    must_not_break(tenant, "stage")
    if tenant.state.staged != version:
        try:
            content = tenant.lxd.pull(tenant.name, str(ARCHIVE))
        except NotFound:
            raise CtlError("the release's archive is not there") from None
        if hashlib.sha256(content).hexdigest() != request["sha256"]:
            raise CtlError(f"the archive of {version} came here as another file than was meant (its sha256 differs)")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            check_runs_here(json.loads(archive.read(METADATA)), before, *versions(tenant))
            size = sum(info.file_size for info in archive.infolist())
        free = tenant.disk({})["free"] - LEAVE
        if size > free:
            raise CtlError(
                f"unpacked {version} takes {in_words(size)}, and its disk has room for {in_words(max(0, free))}"
            )
        _kept(tenant, staged=version, before="", cache="")
    tenant.lxd.remove(tenant.name, str(ARCHIVE))
    return {"version": version, "before": before, "seconds": 2.4, "own": _own(tenant)}


def discard(tenant: Tenant, _request: Mapping[str, Any]) -> dict[str, Any]:
    _kept(tenant, staged="", before="")
    return {}


def record(_tenant: Tenant, _request: Mapping[str, Any]) -> dict[str, Any]:
    return {"recorded": 0}


def swap(tenant: Tenant, request: Mapping[str, Any]) -> dict[str, Any]:
    version, before = request["version"], tenant.serving()
    _must_be_closed(tenant)
    must_not_break(tenant, "swap")
    if tenant.state.staged and tenant.state.staged != version:
        raise CtlError(f"what is staged is not {version}")
    if tenant.state.staged:
        tenant.stop("php8.2-fpm")
        _kept(tenant, version=version, before=before, staged="", schema=tenant.state.schema or before)
    elif not tenant.state.before or before != version:
        raise CtlError(f"{version} is not staged")
    return {"version": version, "before": tenant.state.before, "seconds": 0.7}


def warm(tenant: Tenant, _request: Mapping[str, Any]) -> dict[str, Any]:
    _must_be_closed(tenant)
    must_not_break(tenant, "warm")
    _kept(tenant, cache=cache_of(tenant, tenant.serving()))
    return {"seconds": 11.0}


def pack_cache(tenant: Tenant, _request: Mapping[str, Any]) -> dict[str, Any]:
    packed = (tenant.state.cache or cache_of(tenant, tenant.serving())).encode()
    return {"bytes": len(packed), "tar": base64.b64encode(packed).decode()}


def lay_cache(tenant: Tenant, _request: Mapping[str, Any]) -> dict[str, Any]:
    if not tenant.state.staged:
        raise CtlError("nothing is staged that a cache could be laid into")
    told = json.loads(tenant.lxd.pull(tenant.name, PACKED))
    wanted = json.loads(cache_of(tenant, tenant.state.staged))
    if other := [name for name, value in wanted.items() if told.get(name) != value]:
        raise CtlError(f"the cache is of another {' and '.join(other)}, and would break every page")
    _kept(tenant, cache=json.dumps(told))
    tenant.lxd.remove(tenant.name, PACKED)
    return {}


def migrate(tenant: Tenant, _request: Mapping[str, Any]) -> dict[str, Any]:
    _must_be_closed(tenant)
    new, words = _new(tenant), tenant.state.breaks.get("migrate")
    if words is None:
        _kept(tenant, schema=tenant.serving())
    rows = {"inserted": 0 if words else len(new), "updated": 0, "deleted": 0}
    return {
        "done": words is None,
        "code": 1 if words else 0,
        "ran": [] if words else new,
        "skipped": [],
        "unregistered": 0,
        "rows": rows,
        "seconds": 0.3,
        "output": words or "[OK] Successfully migrated",
    }


def up_to_date(tenant: Tenant, _request: Mapping[str, Any]) -> dict[str, Any]:
    new = _new(tenant)
    return {"up_to_date": not new, "code": int(bool(new)), "new": new, "unregistered": 0}


def reload(tenant: Tenant, _request: Mapping[str, Any]) -> dict[str, Any]:
    must_not_break(tenant, "reload")
    tenant.start("php8.2-fpm")
    return {}


def assets(tenant: Tenant, _request: Mapping[str, Any]) -> dict[str, Any]:
    status = 500 if "assets" in tenant.state.breaks else 200
    paths = {"/s/login": 200, "/media/css/app.css": status, "/media/js/app.js": status}
    return {"assets": {path: {"status": found, "bytes": 4096, "seconds": 0.05} for path, found in paths.items()}}


def upgrade(tenant: Tenant, request: Mapping[str, Any]) -> dict[str, Any]:
    phases = {"swap": swap(tenant, request)["seconds"], "database": 0.1}
    carried = tenant.state.cache == cache_of(tenant, tenant.serving())
    phases["cache"] = 0.1 if carried else warm(tenant, {})["seconds"]
    migrated = migrate(tenant, request)
    phases["migrate"] = migrated["seconds"]
    answer = {"version": request["version"], "phases": phases, "carried": carried, "migrated": migrated}
    if not migrated["done"]:
        return answer
    reload(tenant, {})
    must_not_break(tenant, "page")
    phases |= {"reload": 0.4, "page": 0.7}
    had = {name: 0 for name in request.get("tables", ())} | _counts(tenant)
    slow = tenant.state.breaks.get("count", "").split()
    had = {name: rows for name, rows in had.items() if name in request.get("tables", ()) and name not in slow}
    has = had | {name: had[name] - 1 for name in tenant.state.breaks.get("rows", "").split()}
    return answer | {"up_to_date": not _new(tenant), "had": had, "has": has, **assets(tenant, {})}


def evidence(tenant: Tenant, _request: Mapping[str, Any]) -> dict[str, Any]:
    state = tenant.state
    schema = state.schema or tenant.serving()
    php, mariadb = versions(tenant)
    brought = [f"campaigns column uuid_{name} char(36) null" for name in _of(schema)]
    return {
        "version": tenant.serving(),
        "php": php,
        "mariadb": mariadb,
        "schema": sorted([*SCHEMA, *brought]),
        "whole": True,
        "counts": _counts(tenant),
        "uncounted": tenant.state.breaks.get("count", "").split(),
        "migrations": len(_of(schema)),
        "plugins": {name: {"version": "1.0", "loads": loads} for name, loads in state.plugins.items()},
        "own": _own(tenant),
        "errors": {"simulated error #": state.log_errors} if state.log_errors else {},
    }


def _counts(tenant: Tenant) -> dict[str, int]:
    return {"leads": tenant.state.contacts, "form_submissions": len(tenant.state.writes)}


def cache_of(tenant: Tenant, version: str) -> str:
    """Return, as JSON, the version and the plugins that a compiled cache belongs to."""
    return json.dumps({"version": version, "set of plugins": sorted(tenant.state.plugins)})


def _of(version: str) -> list[str]:
    """Return the migrations that a schema of this version has had."""
    return [name for since, name in MIGRATIONS.items() if since <= numbers(version)]


def _new(tenant: Tenant) -> list[str]:
    done = _of(tenant.state.schema or tenant.serving())
    return [name for name in _of(tenant.serving()) if name not in done]


VERBS: dict[str, Callable[[Any, Mapping[str, Any]], dict[str, Any]]] = {
    verb.__name__: verb
    for verb in (
        stage, discard, record, swap, warm, pack_cache, lay_cache, migrate, up_to_date, reload, upgrade, assets,
        evidence,
    )
}  # fmt: skip
