"""Labels: facts that the bot stores on instances and snapshots as `user.mautic-ops.*`; which container serves. Pure.

This module lists every key, its meaning and the modules that write it. Keys must not be renamed: existing tenants have
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol, TypeVar

KEY = "user.mautic-ops."
"""The prefix of all labels. Every fact that the bot has to know about a tenant is stored on its instance."""
EVER = 2**37
"""The latest epoch seconds that a label may hold as a moment (the year 6325)."""


class Role(StrEnum):
    """The role of one of the bot's instances."""

    TENANT = "tenant"
    """The container that serves the tenant, or would if it were not closed."""
    INCOMING = "incoming"
    """A candidate: made by an operation to replace a tenant's container; or a blueprint that is being copied."""
    RETIRED = "former"
    """A retired container: stopped and kept after another replaced it."""
    ARCHIVED = "archived"
    """The container of a deleted tenant, kept for a while."""
    BLUEPRINT = "blueprint"
    """A container that tenants are cloned from."""
    EDGE = "edge"
    """The reverse proxy of a host."""
    REHEARSAL = "rehearsal"
    """A copy of a tenant that an upgrade is tried on: closed, without a network, and deleted afterwards."""
    BALLAST = "ballast"
    """Occupies space on a pool, which the bot frees when the pool is full."""


class State(StrEnum):
    """Whether an instance is open to the outside."""

    NONE = ""
    """Not set: the instance is not a tenant, or no longer one."""
    NEW = "new"
    """The tenant is being created."""
    LIVE = "live"
    """Open to the outside."""
    MOVING = "moving"
    """Closed during a cutover: the container is being replaced, or is the candidate."""
    SUSPENDED = "suspended"
    """Suspended by a person."""
    UNKNOWN = "unknown"
    """A value that this release does not know: the instance counts as not open."""


Kind = Literal["text", "number", "moment", "flag", "operation", "role", "state"]
"""How a label is stored: a moment as epoch seconds, a flag as `1` or `0`, an operation as its number; "": not set."""


@dataclass(frozen=True)
class Label:
    """One label. `writers`: the modules that write it."""

    kind: Kind
    meaning: str
    writers: tuple[str, ...]


LABELS: Mapping[str, Label] = {
    "archive": Label(
        "text",
        "the checksum of the release that a blueprint was built of",
        ("bot.guest.blueprint.build", "bot.guest.blueprint.simulated"),
    ),
    "archived": Label("moment", "since when it is archived", ("commands.delete", "commands.unarchive")),
    "base": Label(
        "moment",
        "when the Debian packages were installed that it was made of",
        ("bot.guest.blueprint.build", "bot.guest.blueprint.simulated"),
    ),
    "brought": Label(
        "text",
        "the operation that brought all of a tenant's own to it, with `upgraded` after it once that is done",
        ("bot.engine.on_new_base",),
    ),
    "by": Label("text", "who had a snapshot taken", ("bot.engine.snapshots",)),
    "copied": Label(
        "flag",
        "the copy is complete: an interrupted one is without it",
        (
            "bot.engine.copies",
            "bot.engine.cutover",
            "bot.engine.rehearsal",
            "commands.upgrade",
            "bot.engine.base_rehearsal",
            "bot.engine.on_new_base",
        ),
    ),
    "created": Label(
        "moment", "when it was made", ("bot.guest.blueprint.build", "bot.guest.blueprint.simulated", "commands.new")
    ),
    "cutover": Label("text", "the command of the cutover that made it", ("bot.engine.cutover",)),
    "domain": Label(
        "text",
        "the domain that clients come to",
        (
            "commands.new",
            "bot.engine.base_rehearsal",
        ),
    ),
    "double": Label(
        "flag", "its Mautic is a double", ("bot.guest.blueprint.build", "bot.guest.blueprint.simulated", "commands.new")
    ),
    "furniture": Label(
        "number",
        "the version of what the bot put into it; none: 1",
        ("bot.guest.blueprint.furniture", "bot.guest.blueprint.simulated"),
    ),
    "from": Label("text", "server/member/instance that it replaces", ("bot.engine.cutover",)),
    "keep": Label("flag", "a snapshot that is not pruned", ("bot.engine.snapshots",)),
    "kept-until": Label(
        "moment", "until when a retired one is kept; 0: for ever", ("bot.engine.cutover", "commands.rollback")
    ),
    "mail-by": Label("operation", "which decided on its mail last", ("commands.mail",)),
    "mail-counted": Label("moment", "when the waiting mail was counted", ("bot.engine.outbound",)),
    "mail-waits": Label("text", "what mail waited when it was stopped, for people", ("bot.engine.outbound",)),
    "network-before": Label(
        "text", "the network device that it gets back, as JSON", ("bot.engine.cutover", "bot.lxd.wire")
    ),
    "note": Label("text", "what it is for, as a person wrote", ("commands.new",)),
    "on-demand": Label(
        "flag",
        "a blueprint that an operation needed: new tenants get its version only where they are told to",
        (
            "bot.guest.blueprint.build",
            "bot.guest.blueprint.simulated",
            "bot.engine.base_rehearsal",
            "bot.engine.on_new_base",
        ),
    ),
    "operation": Label(
        "operation",
        "which made it, or changed its role last",
        (
            "bot.engine.cutover",
            "bot.engine.rehearsal",
            "commands.delete",
            "commands.new",
            "commands.unarchive",
            "bot.engine.base_rehearsal",
            "bot.engine.blueprints",
        ),
    ),
    "outbound": Label("text", "`off`: it sends no mail", ("bot.engine.outbound",)),
    "pieces": Label("number", "how many files of ballast there are", ("bot.fleet.ballast",)),
    "plan": Label(
        "text",
        "the name of its size",
        (
            "commands.new",
            "commands.resize",
            "bot.engine.base_rehearsal",
        ),
    ),
    "reason": Label(
        "text", "why it was retired, for releases before `replaced-by`", ("bot.engine.cutover", "commands.rollback")
    ),
    "recipe": Label(
        "text",
        "the recipe that an edge or blueprint was made by",
        ("bot.guest.blueprint.build", "bot.guest.blueprint.simulated", "bot.edge.edge"),
    ),
    "replaced-by": Label("text", "the command that replaced it", ("bot.engine.cutover", "commands.rollback")),
    "replaced-in": Label("operation", "which replaced it", ("bot.engine.cutover", "commands.rollback")),
    "resized-by": Label("operation", "which gave it its size", ("commands.resize",)),
    "retired": Label("moment", "when it was retired", ("bot.engine.cutover", "commands.rollback")),
    "role": Label(
        "role",
        "what it is",
        (
            "bot.fleet.ballast",
            "bot.guest.blueprint.build",
            "bot.guest.blueprint.simulated",
            "bot.edge.edge",
            "bot.engine.cutover",
            "bot.engine.rehearsal",
            "commands.delete",
            "commands.new",
            "commands.unarchive",
            "bot.engine.base_rehearsal",
            "bot.engine.blueprints",
        ),
    ),
    "sizes-due": Label("flag", "its database does not have the sizes of its plan yet", ("commands.resize",)),
    "slot": Label(
        "number",
        "the second of every five minutes at which its heavy jobs begin",
        ("bot.guest.blueprint.furniture", "commands.new"),
    ),
    "snapshot-note": Label("text", "what a snapshot is for, as a person wrote", ("bot.engine.snapshots",)),
    "started-by": Label("operation", "which started one that had been stopped", ("commands.start",)),
    "state": Label(
        "state",
        "whether it is open",
        (
            "bot.engine.cutover",
            "bot.engine.rehearsal",
            "commands.new",
            "commands.resume",
            "commands.start",
            "commands.suspend",
            "bot.engine.base_rehearsal",
            "bot.engine.on_new_base",
        ),
    ),
    "stopped-by": Label("operation", "which stopped it", ("commands.stop",)),
    "suspended-by": Label("operation", "which suspended it", ("commands.suspend",)),
    "suite": Label(
        "text",
        "the release of Debian that it was made of; none: `bookworm`",
        ("bot.guest.blueprint.build", "bot.guest.blueprint.simulated"),
    ),
    "tags": Label("text", "words that people choose it by, with spaces between", ("commands.tag",)),
    "taken": Label(
        "moment", "when a snapshot was taken, by the bot's clock", ("bot.engine.snapshots", "commands.migrate")
    ),
    "tenant": Label(
        "text",
        "the name of the tenant that it is a container of",
        (
            "commands.new",
            "bot.engine.base_rehearsal",
        ),
    ),
    "version": Label(
        "text",
        "of its Mautic",
        (
            "bot.guest.blueprint.build",
            "bot.guest.blueprint.simulated",
            "commands.new",
            "commands.rollback",
            "commands.upgrade",
            "bot.engine.base_rehearsal",
            "bot.engine.on_new_base",
        ),
    ),
    "was-called": Label("text", "the instance's name before it was archived", ("commands.delete",)),
    "was-outbound": Label("text", "`outbound` before the decision on its mail", ("commands.mail",)),
    "was-plan": Label("text", "`plan` before it was resized", ("commands.resize",)),
    "was-running": Label("flag", "whether it ran before it was archived", ("commands.delete",)),
    "was-stopped": Label("flag", "whether it was stopped on purpose before it was archived", ("commands.delete",)),
    "why": Label(
        "text", "why a snapshot was taken: `asked`, `schedule`, or what it comes before", ("bot.engine.snapshots",)
    ),
    "wrote": Label("number", "bytes that were written since the snapshot before", ("bot.engine.snapshots",)),
}


_KEYS = {name: KEY + name for name in LABELS}
_NAMES = {key: name for name, key in _KEYS.items()}


def as_labels(**facts: str | int | bool) -> dict[str, str]:
    """Return facts as instance configuration: `as_labels(role="tenant")` → `{"user.mautic-ops.role": "tenant"}`."""
    return {
        _KEYS[name.replace("_", "-")]: str(int(value)) if isinstance(value, bool) else str(value)
        for name, value in facts.items()
    }


def label_of(config: Mapping[str, str], name: str) -> str:
    """Return one label from an instance's configuration, "" where it is not set; raises KeyError for unknown names."""
    return config.get(_KEYS[name], "")


def number_of(text: str, most: int = 2**53 - 1) -> int:
    """Return the number in a label; 0 for anything else, or beyond `most`, because people can write any text there."""
    found = int(text) if text.isdecimal() and len(text) < 20 else 0
    return found if found <= most else 0


def moment_of(text: str) -> int:
    """Return the epoch seconds in a label; 0 for anything else, or beyond `EVER`."""
    return number_of(text, EVER)


def labels_of(config: Mapping[str, str]) -> dict[str, str]:
    """Return all labels of an instance by name, in one pass: a list of a thousand tenants reads two dozen of each."""
    return {_NAMES[key]: value for key, value in config.items() if key in _NAMES}


_ROLES = {role.value: role for role in Role}
_STATES = {state.value: state for state in State}
# Built once, because a list reads them for each of a thousand instances.
_ROLE, _STATE = KEY + "role", KEY + "state"


def role_of(config: Mapping[str, str]) -> Role | None:
    """Return the role of an instance; None: not the bot's, or a role of a later release."""
    return _ROLES.get(config.get(_ROLE, ""))


def state_of(config: Mapping[str, str]) -> State:
    """Return the state of an instance."""
    return _STATES.get(config.get(_STATE, ""), State.UNKNOWN)


def replacing(command: str, operation: int) -> dict[str, str]:
    """Return the labels for a container that an operation replaces; older releases read `reason`."""
    return as_labels(replaced_by=command, replaced_in=operation, reason=f"{command} {operation}")


def replaced(config: Mapping[str, str]) -> tuple[str, int]:
    """Return the command and operation that replaced a container; older releases wrote only `reason`, a text."""
    command, operation = label_of(config, "replaced-by"), label_of(config, "replaced-in")
    if not command:
        command, _, operation = label_of(config, "reason").partition(" ")
    return command, number_of(operation)


class Standing(Protocol):
    """The facts that decide whether a container serves. `made_by`: the operation that made it, 0: unknown."""

    @property
    def role(self) -> Role | None: ...
    @property
    def state(self) -> State: ...
    @property
    def running(self) -> bool: ...
    @property
    def instance(self) -> str: ...
    @property
    def made_by(self) -> int: ...


@dataclass(frozen=True)
class Seen:
    """A container as its server lists it, for `holder` and `serving`."""

    instance: str
    role: Role | None
    state: State
    running: bool
    made_by: int = 0


def seen(name: str, config: Mapping[str, str], *, running: bool) -> Seen:
    """Return a container from its name and configuration on the server."""
    made_by = number_of(label_of(config, "operation"))
    return Seen(name, role_of(config), state_of(config), running, made_by)


S = TypeVar("S", bound=Standing)


def is_open(one: Standing) -> bool:
    """Return whether the edge may route clients to a container; never to a running archive, which would lose data."""
    return one.role in (Role.TENANT, Role.INCOMING) and one.state == State.LIVE and one.running


def right(one: Standing) -> int | None:
    """Return the rank of a container's claim to its domain; None: it has no claim.

    3: an open tenant; 2: a closed tenant or an archive, with a maintenance page; 1: an open candidate; 0: a tenant that
    is closed for its candidate. A candidate opens before it becomes the tenant. It ranks below tenants, because a
    candidate that its operation could not delete may still be open when the tenant serves again or is closed, and data
    written to it would be lost.
    """
    if one.role == Role.INCOMING:
        return 1 if is_open(one) else None
    if one.role not in (Role.TENANT, Role.ARCHIVED):
        return None
    if is_open(one):
        return 3
    return 0 if one.state == State.MOVING else 2


def has_replaced(one: Standing, other: Standing) -> bool:
    """Return whether a container has replaced another of its tenant whose labels do not say so yet.

    This happens where the host of the other could not be reached after the cutover.
    """
    tenants = one.role == other.role == Role.TENANT
    return tenants and one.state != State.MOVING and other.state == State.MOVING


def holder(containers: Iterable[S]) -> S | None:
    """Return the container that decides what clients of a domain see; None: no container has a claim to the domain.

    Of two with the same rank, as after a host was restored from a backup, the newer one wins.
    """
    rights = [(its, one.made_by, one.instance, one) for one in containers if (its := right(one)) is not None]
    return max(rights, key=lambda found: found[:3])[3] if rights else None


def serving(containers: Iterable[S]) -> S | None:
    """Return the container of a tenant that serves clients; None: they see a maintenance page, or nothing."""
    found = holder(containers)
    return found if found is not None and is_open(found) else None
