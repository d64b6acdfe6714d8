"""Validates the answers of `mautic-ctl` inside a tenant: nothing that does not have the right shape is believed. Pure.

Whoever has root in a tenant may let it say anything. So figures have bounds that no sum of them can leave, texts are
cut and cleaned, lists are short, what nobody knows is dropped, and what is of another shape is `TenantAnswerError`.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from bot.guest import consent_answers as consent
from bot.guest import upgrade_answers as upgrades
from bot.guest.untrusted import LIST, TEXT, Code, Figure, Moment, Seconds, Untrusted
from bot.lxd.protocol import LxdError, TenantAnswerError
from bot.model.labels import EVER
from bot.model.words import tame

LIMIT = 1 << 20
"""Bytes of an answer: a log of 60,000 characters is the longest."""
PAGES, BODY = 10 << 20, 2 << 20
"""Bytes of the answer to `pages`, which holds some megabytes of content by base64, and of one content."""


class Outcome(Untrusted):
    """Whether it did what was asked; else why not, in a sentence."""

    ok: bool
    error: str = "the tool gave no reason"


class Check(Untrusted):
    """One check of `health`; `known`: whether it could be looked at at all."""

    ok: bool
    text: str
    known: bool = True

    def __post_init__(self) -> None:
        self.text = tame(self.text, LIST)


class Job(Untrusted):
    """How one of Mautic's jobs stands. `last_success`: epoch seconds; `looked`: there was nothing for it to do."""

    late: bool
    why: str
    last_success: Annotated[float, Meta(ge=0, le=EVER)] | None = None
    rc: Annotated[int, Meta(ge=-(2**31), le=2**31)] | None = None
    looked: bool = False


class Queue(Untrusted):
    """A queue: messages due, and the seconds that the oldest has waited."""

    due: Figure
    age: Figure


class FailedMails(Untrusted):
    """Mails that Mautic gave up on: within a day, and in its queue of failed ones."""

    day: Figure
    kept: Figure


class OutboundOff(Untrusted):
    """Since when outbound mail is off, and how much waits."""

    since: Moment
    waits: Figure


class DiskUse(Untrusted):
    """Bytes of a disk; `why` it is not known what is used, "" where it is."""

    free: Figure
    used: Figure | None
    limit: Figure | None
    why: str = ""


class Facts(Untrusted):
    """What `health` measured. What needs the database is not there when it does not answer."""

    services: dict[str, str]
    database: bool
    crons: dict[str, Job]
    log_errors_day: Figure
    memory: Figure
    memory_limit: Figure | None
    disk: DiskUse
    closed: bool
    version: str
    double: bool = False
    contacts: Figure | UnsetType = UNSET
    identified: Figure | UnsetType = UNSET
    last_login: Moment | UnsetType = UNSET
    last_active: Moment | UnsetType = UNSET
    emails_day: Figure | UnsetType = UNSET
    emails_failed_day: Figure | UnsetType = UNSET
    stale_segments: Figure | UnsetType = UNSET
    overdue_events: Figure | UnsetType = UNSET
    failed_events: Figure | UnsetType = UNSET
    message_queue: Figure | UnsetType = UNSET
    webhook_queue: Figure | UnsetType = UNSET
    waiting_imports: Figure | UnsetType = UNSET
    died_imports: Figure | UnsetType = UNSET
    late_exports: Figure | UnsetType = UNSET
    late_reports: Figure | UnsetType = UNSET
    queues: dict[str, Queue] | UnsetType = UNSET
    queue_age: Figure | UnsetType = UNSET
    failed_mails: FailedMails | UnsetType = UNSET
    outbound_off: OutboundOff | UnsetType | None = UNSET
    migrations_executed: Figure = 0
    furniture: Figure = 1


class Health(Untrusted):
    """How a tenant is."""

    healthy: bool
    checks: dict[str, Check]
    facts: Facts


class Locked(Untrusted):
    """Whether writes are held, or why not."""

    held: bool
    why: str


class LetGo(Untrusted):
    """Whether writes were held until they were let go, and for how long."""

    kept: bool
    seconds: Seconds


class Took(Untrusted):
    """How long it took."""

    seconds: Seconds


class PageTold(Untrusted):
    """One page or file as it was answered, see `bot.model.pages.Page`."""

    key: str
    status: Annotated[int, Meta(ge=0, le=999)]
    seconds: Seconds
    size: Figure
    type: str
    sha256: str
    right: bool
    cut: bool
    body: Annotated[bytes, Meta(max_length=BODY)] = b""


class PagesTold(Untrusted):
    """What visitors see, by path, and why what is not among it was left out."""

    pages: dict[str, PageTold]
    left_out: dict[str, str]


class Counts(Untrusted):
    """What came since a time; `last_write` in epoch seconds."""

    contacts: Figure
    submissions: Figure
    opt_outs: Figure
    last_write: Moment


class Waiting(Untrusted):
    """Mail that waits; `oldest` in epoch seconds, 0: none waits."""

    waits: Figure
    oldest: Moment
    kinds: dict[str, Figure]


class Mail(Waiting):
    """The same, and what was sent."""

    off: bool
    sent: Figure


class Released(Waiting):
    """The same, and what became of it."""

    choice: str
    dropped: Figure


class Text(Untrusted):
    """A log's last lines."""

    text: str


class Ran(Untrusted):
    """How a command of Mautic's ended."""

    code: Code
    output: str


class Version(Untrusted):
    """Which Mautic it is."""

    version: str
    double: bool = False


class Furnished(Untrusted):
    """The version of what stands in it, now and before."""

    version: Figure
    before: Figure


class Unfurnished(Untrusted):
    """The version of what stands in it."""

    version: Figure


class Used(Untrusted):
    """Bytes of all files."""

    used: Figure


class Done(Untrusted):
    """Nothing more to say."""


SHAPES: dict[str, type[Untrusted]] = {
    "install": Version,
    "generalise": Version,
    "furnish": Furnished,
    "unfurnish": Unfurnished,
    "identity": Took,
    "resize": Done,
    "close": Done,
    "open": Done,
    "quiesce": Took,
    "stop_work": Done,
    "unquiesce": Done,
    "restart": Done,
    "backup_lock": Locked,
    "let go": LetGo,
    "page": Took,
    "pages": PagesTold,
    "counts": Counts,
    "logs": Text,
    "console": Ran,
    "health": Health,
    "disk": DiskUse,
    "used": Used,
    "sync": Done,
    "mail": Mail,
    "release": Released,
    "version": Version,
    "stage": upgrades.Staged,
    "discard": Done,
    "swap": upgrades.Swapped,
    "warm": Took,
    "pack_cache": upgrades.Packed,
    "lay_cache": Done,
    "record": upgrades.Recorded,
    "migrate": upgrades.Migrated,
    "up_to_date": upgrades.UpToDate,
    "reload": Done,
    "upgrade": upgrades.Upgraded,
    "assets": upgrades.Assets,
    "evidence": upgrades.Evidence,
    "send_own": upgrades.Sent,
    "taking": upgrades.Taking,
    "take_own": upgrades.Took,
    "adopt": upgrades.Adopted,
    "base": upgrades.BaseTold,
    "withdrawals": consent.Withdrawals,
    "withdraw": consent.Withdrawn,
}
"""By verb; `let go` is the second answer of `backup_lock`, and `taking` the first of `take_own`."""
_OUTCOME = msgspec.json.Decoder(Outcome)
_DECODERS = {verb: msgspec.json.Decoder(shape) for verb, shape in SHAPES.items()}
"""Made before there are threads: msgspec learns a type at its first use, and two threads that have it learn the same
one at once end the process."""


def decode(instance: str, verb: str, line: bytes) -> dict[str, Any]:
    """Return what an instance answers to a verb, of the shape that it has in SHAPES.

    Raises LxdError with the tool's own sentence where it says that it failed, TenantAnswerError where it makes no
    sense.
    """
    try:
        outcome = _OUTCOME.decode(line)
        if outcome.ok:
            told = _DECODERS[verb].decode(line)
            answer: dict[str, Any] = msgspec.to_builtins(told, builtin_types=(bytes,))
            return answer
    except (ValueError, RecursionError) as error:
        # A validation error names the field alone; what is no JSON at all might be quoted.
        where = f": {tame(str(error), TEXT)}" if isinstance(error, msgspec.ValidationError) else ", which is no JSON"
        raise TenantAnswerError(f"`{instance}` answers nonsense to `{verb}`{where}.") from None
    raise LxdError(f"Inside `{instance}`: {outcome.error.rstrip('.')}.")
