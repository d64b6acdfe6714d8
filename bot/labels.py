"""Labels: what the bot knows of an instance or snapshot, kept on it as `user.mautic-ops.*`; and who serves. Pure.

All keys are here, with what each means and who writes it; none may be renamed, as tenants in the field have them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol, TypeVar

KEY = "user.mautic-ops."
"""Every fact that the bot must know of a tenant stands on its instance under this prefix."""


class Role(StrEnum):
    """What an instance of ours is."""

    TENANT = "tenant"
    """The one that serves, or that would if it were not closed."""
    INCOMING = "incoming"
    """Made by an operation to take a tenant's place, or a blueprint that is on its way."""
    FORMER = "former"
    """Stopped and kept since another took its place."""
    ARCHIVED = "archived"
    """A deleted tenant, kept for a while."""
    BLUEPRINT = "blueprint"
    """What tenants are cloned from."""
    EDGE = "edge"
    """The reverse proxy of a host."""
    BALLAST = "ballast"
    """Holds room on a pool that can be given up."""


class State(StrEnum):
    """How far an instance is open."""

    NONE = ""
    """Nothing is said of it: it is no tenant, or none any more."""
    NEW = "new"
    """It is being made."""
    LIVE = "live"
    """Open to the outside."""
    MOVING = "moving"
    """Closed while another takes its place, or until it has taken another's."""
    SUSPENDED = "suspended"
    """Closed by a person."""
    UNKNOWN = "unknown"
    """What no release of the bot writes: it is not open."""


Kind = Literal["text", "number", "moment", "flag", "operation", "role", "state"]
"""How a label is written: a moment in epoch seconds, a flag as `1` or `0`, an operation by its number; "": not set."""


@dataclass(frozen=True)
class Label:
    """One key. `writers`: the modules that write it."""

    kind: Kind
    meaning: str
    writers: tuple[str, ...]


LABELS: Mapping[str, Label] = {
    "archive": Label("text", "the checksum of the release that a blueprint was built of", ("bot.blueprint.build",)),
    "archived": Label("moment", "since when it is archived", ("commands.delete", "commands.unarchive")),
    "by": Label("text", "who had a snapshot taken", ("bot.snapshots",)),
    "copied": Label(
        "flag", "it is whole: a copy that was cut has it not", ("bot.succession", "commands.migrate", "commands.new")
    ),
    "created": Label("moment", "when it was made", ("bot.blueprint.build", "bot.hosts", "commands.new")),
    "domain": Label("text", "the domain that clients come to", ("commands.new",)),
    "double": Label("flag", "its Mautic is a double", ("bot.blueprint.build", "bot.hosts", "commands.new")),
    "furniture": Label("number", "the version of what we put into it; none: 1", ("bot.blueprint.furniture",)),
    "from": Label("text", "server/member/instance whose place it takes", ("bot.succession",)),
    "keep": Label("flag", "a snapshot that is not pruned", ("bot.snapshots",)),
    "kept-until": Label("moment", "until when a former one is kept; 0: for ever", ("bot.succession",)),
    "mail-by": Label("operation", "which decided on its mail last", ("commands.mail",)),
    "mail-counted": Label("moment", "when the mail that waits was counted", ("bot.outbound",)),
    "mail-waits": Label("text", "what mail waited when it was stopped, for people", ("bot.outbound",)),
    "network-before": Label("text", "the network device that it gets back, as JSON", ("bot.succession", "bot.wire")),
    "note": Label("text", "what it is for, as a person wrote", ("commands.new",)),
    "operation": Label(
        "operation",
        "which made it, or decided last what it is",
        ("bot.succession", "commands.delete", "commands.new", "commands.unarchive"),
    ),
    "outbound": Label("text", "`off`: it sends no mail", ("bot.outbound",)),
    "pieces": Label("number", "how many files of ballast there are", ("bot.ballast",)),
    "plan": Label("text", "the name of its size", ("commands.new", "commands.resize")),
    "reason": Label("text", "why a former one is one, for releases before `replaced-by`", ("bot.succession",)),
    "recipe": Label("text", "what an edge or blueprint was made by", ("bot.blueprint.build", "bot.edge")),
    "replaced-by": Label("text", "the command by which another took its place", ("bot.succession",)),
    "replaced-in": Label("operation", "in which another took its place", ("bot.succession",)),
    "resized-by": Label("operation", "which gave it its size", ("commands.resize",)),
    "retired": Label("moment", "since when it is a former one", ("bot.succession",)),
    "role": Label(
        "role",
        "what it is",
        (
            "bot.ballast",
            "bot.blueprint.build",
            "bot.edge",
            "bot.hosts",
            "bot.succession",
            "commands.delete",
            "commands.new",
            "commands.unarchive",
        ),
    ),
    "sizes-due": Label("flag", "its database has not got the sizes of its plan yet", ("commands.resize",)),
    "snapshot-note": Label("text", "what a snapshot is for, as a person wrote", ("bot.snapshots",)),
    "started-by": Label("operation", "which started one that had been stopped", ("commands.start",)),
    "state": Label(
        "state",
        "how far it is open",
        (
            "bot.succession",
            "commands.migrate",
            "commands.new",
            "commands.restore",
            "commands.resume",
            "commands.start",
            "commands.suspend",
        ),
    ),
    "stopped-by": Label("operation", "which stopped it", ("commands.stop",)),
    "suspended-by": Label("operation", "which suspended it", ("commands.suspend",)),
    "tags": Label("text", "words that people choose it by, with spaces between", ("commands.tag",)),
    "taken": Label("moment", "when a snapshot was taken, by the bot's clock", ("bot.snapshots",)),
    "tenant": Label("text", "the name of the tenant that it is a container of", ("commands.new",)),
    "version": Label("text", "of its Mautic", ("bot.blueprint.build", "bot.hosts", "commands.new")),
    "was-called": Label("text", "the instance's name before it was archived", ("commands.delete",)),
    "was-outbound": Label("text", "`outbound` before it was decided on", ("commands.mail",)),
    "was-plan": Label("text", "`plan` before it was resized", ("commands.resize",)),
    "was-running": Label("flag", "whether it ran before it was archived", ("commands.delete",)),
    "was-stopped": Label("flag", "whether it was stopped on purpose before it was archived", ("commands.delete",)),
    "why": Label("text", "why a snapshot was taken: `asked`, `schedule`, or what it comes before", ("bot.snapshots",)),
    "wrote": Label("number", "bytes that were written since the snapshot before", ("bot.snapshots",)),
}


_KEYS = {name: KEY + name for name in LABELS}


def stamps(**facts: str | int | bool) -> dict[str, str]:
    """Return facts as instance configuration: `stamps(role="tenant")` → `{"user.mautic-ops.role": "tenant"}`."""
    return {
        _KEYS[name.replace("_", "-")]: str(int(value)) if isinstance(value, bool) else str(value)
        for name, value in facts.items()
    }


def stamp(config: Mapping[str, str], name: str) -> str:
    """Return one fact from an instance's configuration, empty when it is not there. Raises KeyError for no label."""
    return config.get(_KEYS[name], "")


_ROLES = {role.value: role for role in Role}
_STATES = {state.value: state for state in State}
# A list reads them of each of a thousand instances.
_ROLE, _STATE = KEY + "role", KEY + "state"


def role_of(config: Mapping[str, str]) -> Role | None:
    """Return what an instance is; None: none of ours, or of a later release."""
    return _ROLES.get(config.get(_ROLE, ""))


def state_of(config: Mapping[str, str]) -> State:
    """Return how far an instance is open."""
    return _STATES.get(config.get(_STATE, ""), State.UNKNOWN)


def replacing(command: str, operation: int) -> dict[str, str]:
    """Return the labels that say in which operation another took its place; `reason` is for older releases."""
    return stamps(replaced_by=command, replaced_in=operation, reason=f"{command} {operation}")


def replaced(config: Mapping[str, str]) -> tuple[str, int]:
    """Return the command and operation by which another took its place; older releases wrote a text alone."""
    command, number = stamp(config, "replaced-by"), stamp(config, "replaced-in")
    if not command:
        command, _, number = stamp(config, "reason").partition(" ")
    return command, int(number) if number.isdecimal() else 0


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
    """A container as its server lists it."""

    instance: str
    role: Role | None
    state: State
    running: bool
    made_by: int = 0


def seen(name: str, config: Mapping[str, str], *, running: bool) -> Seen:
    """Return how a container stands, from what its server tells of it."""
    number = stamp(config, "operation")
    made_by = int(number) if number.isdecimal() else 0
    return Seen(name, role_of(config), state_of(config), running, made_by)


S = TypeVar("S", bound=Standing)


def is_open(one: Standing) -> bool:
    """Whether clients could be led there: not to an archive that still runs, as what they write would go with it."""
    return one.role in (Role.TENANT, Role.INCOMING) and one.state == State.LIVE and one.running


def right(one: Standing) -> int | None:
    """Return how good a container's right to its domain is; None: it has none.

    3 has an open tenant; 2 one that is closed, or an archive, so that a polite page is shown; 1 an open candidate; 0 a
    tenant that is closed for its candidate. A candidate is open before it is the tenant. One that its operation could
    not take away may still be open when the tenant goes on, or is closed, and what is written to it is lost.
    """
    if one.role == Role.INCOMING:
        return 1 if is_open(one) else None
    if one.role not in (Role.TENANT, Role.ARCHIVED):
        return None
    if is_open(one):
        return 3
    return 0 if one.state == State.MOVING else 2


def has_replaced(one: Standing, other: Standing) -> bool:
    """Whether a container has taken another's place of the same tenant, though the other's host knows nothing of it."""
    tenants = one.role == other.role == Role.TENANT
    return tenants and one.state != State.MOVING and other.state == State.MOVING


def holder(containers: Iterable[S]) -> S | None:
    """Return which of the containers of one domain decides what clients see there; None: nobody has a right to it.

    Of two with the same right, as after a host came back from a backup, it is the one that was made last.
    """
    rights = [(its, one.made_by, one.instance, one) for one in containers if (its := right(one)) is not None]
    return max(rights, key=lambda found: found[:3])[3] if rights else None


def serving(containers: Iterable[S]) -> S | None:
    """Return which of the containers of one tenant clients come to; None: a polite page is shown, or nothing."""
    found = holder(containers)
    return found if found is not None and is_open(found) else None
