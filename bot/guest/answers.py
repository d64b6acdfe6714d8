"""Validates what `mautic-ctl` answers inside a tenant: only answers of the expected shape are accepted. Pure.

Anybody with root in a tenant can make it answer anything. So figures have bounds that even their sums cannot leave,
texts are truncated and cleaned, lists are short, unknown fields are dropped, and an answer of another shape raises
`TenantAnswerError`.
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
"""Bytes of an answer. The longest is that of `evidence`: up to 500,000 characters of schema."""
PAGES, BODY = 10 << 20, 2 << 20
"""Bytes of the answer to `pages`, which holds some megabytes of content as base64, and of the content of one page."""


class Outcome(Untrusted):
    """Whether the tool did what was asked; `error`: the reason in a sentence, if it did not."""

    ok: bool
    error: str = "the tool gave no reason"


class Check(Untrusted):
    """One check of `health`; `known`: whether it could be made, and what is late is not so only because of a gap."""

    ok: bool
    text: str
    known: bool = True

    def __post_init__(self) -> None:
        self.text = tame(self.text, LIST)


class Job(Untrusted):
    """The state of one of Mautic's cron jobs.

    `last_success`: epoch seconds; `rc`: exit code; `looked`: PHP was not started, as there was nothing for it to do.
    """

    late: bool
    why: str
    last_success: Annotated[float, Meta(ge=0, le=EVER)] | None = None
    rc: Annotated[int, Meta(ge=-(2**31), le=2**31)] | None = None
    looked: bool = False


class Queue(Untrusted):
    """A queue: the number of due messages, and the seconds that the oldest has waited."""

    due: Figure
    age: Figure


class FailedMails(Untrusted):
    """Mails that Mautic gave up on: within the last day, and all that are in its queue of failed mails."""

    day: Figure
    kept: Figure


class OutboundOff(Untrusted):
    """Since when outbound mail is off, and how many mails wait."""

    since: Moment
    waits: Figure


class DiskUse(Untrusted):
    """Bytes of a disk; `why`: the reason that `used` is unknown, "" if it is known."""

    free: Figure
    used: Figure | None
    limit: Figure | None
    why: str = ""


class Facts(Untrusted):
    """What `health` measured. Facts from the database are missing when it does not answer."""

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
    """The health of a tenant."""

    healthy: bool
    checks: dict[str, Check]
    facts: Facts


class Locked(Untrusted):
    """Whether writes are locked; `why`: the reason, if they are not."""

    held: bool
    why: str


class LockReleased(Untrusted):
    """Whether writes stayed locked until the bot released them, and how long they were locked."""

    kept: bool
    seconds: Seconds


class Took(Untrusted):
    """How long the verb took."""

    seconds: Seconds


class PageAnswer(Untrusted):
    """The answer of one page or file: see `bot.model.pages.Page`."""

    key: str
    status: Annotated[int, Meta(ge=0, le=999)]
    seconds: Seconds
    size: Figure
    type: str
    sha256: str
    right: bool
    cut: bool
    body: Annotated[bytes, Meta(max_length=BODY)] = b""


class PagesAnswer(Untrusted):
    """The pages and files that visitors see, by path, and the reason for each one that was left out."""

    pages: dict[str, PageAnswer]
    left_out: dict[str, str]


class Counts(Untrusted):
    """What was added since a time; `last_write` in epoch seconds."""

    contacts: Figure
    submissions: Figure
    opt_outs: Figure
    last_write: Moment


class Waiting(Untrusted):
    """Mail that waits; `oldest` in epoch seconds, 0: no mail waits."""

    waits: Figure
    oldest: Moment
    kinds: dict[str, Figure]


class Mail(Waiting):
    """Mail that waits, whether outbound mail is off, and how many mails were sent."""

    off: bool
    sent: Figure


class Released(Waiting):
    """Mail that waits, the choice that was carried out, and how many rows were dropped."""

    choice: str
    dropped: Figure


class Text(Untrusted):
    """The last lines of a log."""

    text: str


class Ran(Untrusted):
    """Exit code and output of one of Mautic's console commands."""

    code: Code
    output: str


class Version(Untrusted):
    """The version of Mautic; `double`: it is the stand-in, not the real Mautic."""

    version: str
    double: bool = False


class Furnished(Untrusted):
    """The version of the tenant's furniture, now and before."""

    version: Figure
    before: Figure


class Unfurnished(Untrusted):
    """The version of the tenant's furniture."""

    version: Figure


class Used(Untrusted):
    """The bytes of all files."""

    used: Figure


class Done(Untrusted):
    """An answer without content."""


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
    "let go": LockReleased,
    "page": Took,
    "pages": PagesAnswer,
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
    "base": upgrades.BaseAnswer,
    "withdrawals": consent.Withdrawals,
    "withdraw": consent.Withdrawn,
}
"""The shape of each verb's answer; `let go` is the second answer of `backup_lock`, `taking` the first of `take_own`."""
_OUTCOME = msgspec.json.Decoder(Outcome)
_DECODERS = {verb: msgspec.json.Decoder(shape) for verb, shape in SHAPES.items()}
"""Built before any thread starts: msgspec compiles a type at its first use, and two threads that make it compile the
same type at once crash the process."""


def decode(instance: str, verb: str, line: bytes) -> dict[str, Any]:
    """Return an instance's answer to a verb, in the shape that SHAPES gives it.

    Raises LxdError with the tool's own sentence if the verb failed, TenantAnswerError if the answer has another shape.
    """
    try:
        outcome = _OUTCOME.decode(line)
        if outcome.ok:
            told = _DECODERS[verb].decode(line)
            answer: dict[str, Any] = msgspec.to_builtins(told, builtin_types=(bytes,))
            return answer
    except (ValueError, RecursionError) as error:
        # A validation error names only the field; the error about invalid JSON could quote the answer.
        where = f": {tame(str(error), TEXT)}" if isinstance(error, msgspec.ValidationError) else ", which is no JSON"
        raise TenantAnswerError(f"`{instance}` answers nonsense to `{verb}`{where}.") from None
    raise LxdError(f"Inside `{instance}`: {outcome.error.rstrip('.')}.")
