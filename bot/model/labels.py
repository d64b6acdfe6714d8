"""Labels: what the bot knows of an instance or snapshot, kept on it as `user.mautic-ops.*`; and who serves. Pure.

All keys are here, with what each means and who writes it; none may be renamed, as tenants in the field have them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol, TypeVar

KEY = "user.mautic-ops."
"""Every fact that the bot must know of a tenant is kept on its instance under this prefix."""
EVER = 2**37
"""Epoch seconds up to which a label is believed to be a moment (the year 6325)."""


class Role(StrEnum):
    """What an instance of ours is."""

    TENANT = "tenant"
    """The container that serves, or would if it were not closed."""
    INCOMING = "incoming"
    """A candidate, made by an operation to replace a tenant's container; or a blueprint that is being copied."""
    RETIRED = "former"
    """Retired: stopped and kept since another replaced it."""
    ARCHIVED = "archived"
    """A deleted tenant, kept for a while."""
    BLUEPRINT = "blueprint"
    """What tenants are cloned from."""
    EDGE = "edge"
    """The reverse proxy of a host."""
    REHEARSAL = "rehearsal"
    """A copy of a tenant that an upgrade is tried on: closed, without a network, and deleted afterwards."""
    BALLAST = "ballast"
    """Takes space on a pool that can be freed when the pool is full."""


class State(StrEnum):
    """Whether an instance is open to the outside."""

    NONE = ""
    """Not set: it is no tenant, or no longer one."""
    NEW = "new"
    """It is being created."""
    LIVE = "live"
    """Open to the outside."""
    MOVING = "moving"
    """Closed during a cutover: it is being replaced, or is the candidate."""
    SUSPENDED = "suspended"
    """Suspended by a person."""
    UNKNOWN = "unknown"
    """A value that no release of the bot writes: it is not open."""


Kind = Literal["text", "number", "moment", "flag", "operation", "role", "state"]
"""How a label is written: a moment in epoch seconds, a flag as `1` or `0`, an operation by its number; "": not set."""


@dataclass(frozen=True)
class Label:
    """One key. `writers`: the modules that write it."""

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
    """Return one label from an instance's configuration, "" when it is not set. Raises KeyError for no label."""
    return config.get(_KEYS[name], "")


def number_of(text: str, most: int = 2**53 - 1) -> int:
    """Return the number that a label holds; 0 where that is none, or beyond `most`: people can write anything there."""
    found = int(text) if text.isdecimal() and len(text) < 20 else 0
    return found if found <= most else 0


def moment_of(text: str) -> int:
    """Return the epoch seconds that a label holds; 0 where these are none that a calendar knows."""
    return number_of(text, EVER)


def labels_of(config: Mapping[str, str]) -> dict[str, str]:
    """Return all labels that an instance has, by name: a list of a thousand asks for two dozen of each."""
    return {_NAMES[key]: value for key, value in config.items() if key in _NAMES}


_ROLES = {role.value: role for role in Role}
_STATES = {state.value: state for state in State}
# A list reads them for each of a thousand instances.
_ROLE, _STATE = KEY + "role", KEY + "state"


def role_of(config: Mapping[str, str]) -> Role | None:
    """Return the role of an instance; None: none of ours, or of a later release."""
    return _ROLES.get(config.get(_ROLE, ""))


def state_of(config: Mapping[str, str]) -> State:
    """Return the state of an instance."""
    return _STATES.get(config.get(_STATE, ""), State.UNKNOWN)


def replacing(command: str, operation: int) -> dict[str, str]:
    """Return the labels of a container that an operation replaced; `reason` is for older releases."""
    return as_labels(replaced_by=command, replaced_in=operation, reason=f"{command} {operation}")


def replaced(config: Mapping[str, str]) -> tuple[str, int]:
    """Return the command and operation that replaced it; older releases wrote only a text."""
    command, operation = label_of(config, "replaced-by"), label_of(config, "replaced-in")
    if not command:
        command, _, operation = label_of(config, "reason").partition(" ")
    return command, number_of(operation)


class Standing(Protocol):
    """What decides whether a container serves. `made_by`: the number of the operation that made it, 0: unknown."""

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
    """A container as its server lists it, for `serving`."""

    instance: str
    role: Role | None
    state: State
    running: bool
    made_by: int = 0


def seen(name: str, config: Mapping[str, str], *, running: bool) -> Seen:
    """Return a container from what its server tells of it."""
    made_by = number_of(label_of(config, "operation"))
    return Seen(name, role_of(config), state_of(config), running, made_by)


S = TypeVar("S", bound=Standing)


def is_open(one: Standing) -> bool:
    """Whether clients may be routed there; never to an archive that still runs, where their data would be lost."""
    return one.role in (Role.TENANT, Role.INCOMING) and one.state == State.LIVE and one.running


def right(one: Standing) -> int | None:
    """Return the rank of a container's right to its domain; None: it has none.

    3: an open tenant; 2: a closed tenant or an archive, with a maintenance page; 1: an open candidate; 0: a tenant that
    is closed for its candidate. A candidate is open before it is the tenant. One that its operation could not delete
    may still be open when the tenant serves again or is closed, and what is written there is lost.
    """
    if one.role == Role.INCOMING:
        return 1 if is_open(one) else None
    if one.role not in (Role.TENANT, Role.ARCHIVED):
        return None
    if is_open(one):
        return 3
    return 0 if one.state == State.MOVING else 2


def has_replaced(one: Standing, other: Standing) -> bool:
    """Whether a container has replaced another of the same tenant, though the other's host was not told yet."""
    tenants = one.role == other.role == Role.TENANT
    return tenants and one.state != State.MOVING and other.state == State.MOVING


def holder(containers: Iterable[S]) -> S | None:
    """Return which container of a domain decides what clients see there; None: none has a right to the domain.

    Of two with the same rank, as after a host was restored from a backup, it is the newer one.
    """
    rights = [(its, one.made_by, one.instance, one) for one in containers if (its := right(one)) is not None]
    return max(rights, key=lambda found: found[:3])[3] if rights else None


def serving(containers: Iterable[S]) -> S | None:
    """Return which container of a tenant serves clients; None: a maintenance page is shown, or nothing."""
    found = holder(containers)
    return found if found is not None and is_open(found) else None
