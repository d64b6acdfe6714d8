"""Checks whether each setting works on this machine and in Slack, for `doctor` and at the start.

A check returns a short text about what works, or raises Refused with the problem and what helps.
"""

from __future__ import annotations

import hashlib
import shutil
import socket
import ssl
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from bot.engine.comparison import WEEK
from bot.engine.context import Context
from bot.engine.errors import explain
from bot.fleet.releases import Source, sources
from bot.intake.manifest import SCOPES
from bot.lxd.protocol import LxdError
from bot.model.plan import Refused
from bot.model.text import size
from bot.slack.people import Deciders, Untold, undecidable
from bot.slack.poster import PAGE, PAGES, TooBusy
from bot.store import audit

if TYPE_CHECKING:
    from cryptography import x509

ROOM = 500 << 20
"""Free bytes that the bot's own folder needs, so that the database can be written."""
ANSWER = 5.0
"""Seconds that DNS has to answer."""
SOON = timedelta(days=30)
"""How long before its expiry a certificate is reported."""


def state(context: Context) -> str:
    """Check that `bot.state` is writable and has at least `ROOM` bytes free."""
    folder = context.settings.state
    try:
        tempfile.TemporaryFile(dir=folder).close()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise Refused(f"`bot.state`, {folder}, can't be written: {error.strerror}.") from error
    if free < ROOM:
        raise Refused(f"Only {size(free)} free for `bot.state`, {folder}. When that is full, the bot stops.")
    return f"{folder} is writable, {size(free)} free"


def domain(context: Context) -> str:
    """Check that any name under `bot.base_domain` resolves, and that `edge.tls` can serve a `.localhost` domain."""
    base, edge = context.settings.bot.base_domain, context.settings.edge
    if base.endswith(".localhost"):
        if edge.tls == "automatic":
            raise Refused(f"`edge.tls` is automatic, but nobody issues public certificates for `{base}`.")
        return f"`*.{base}` is this machine"
    with_wildcard = f"doctor.{base}"
    found = ThreadPoolExecutor(1, "dns").submit(socket.getaddrinfo, with_wildcard, None, type=socket.SOCK_STREAM)
    try:
        addresses = sorted({str(one[4][0]) for one in found.result(ANSWER)})
    except (OSError, TimeoutError) as error:
        raise Refused(
            f"`{with_wildcard}` does not resolve, so no tenant under `bot.base_domain` can be reached. In DNS, point "
            f"`*.{base}` to the edge."
        ) from error
    return f"`*.{base}` resolves to {', '.join(addresses)}" + (
        "" if edge.listen in addresses else f", and `edge.listen` is {edge.listen}"
    )


def listen(context: Context) -> str:
    """Check that `edge.listen` is an address of this machine, where the LXD server is on this machine."""
    lxd, address = context.settings.lxd, context.settings.edge.listen
    if lxd.simulated or lxd.endpoint.startswith("https://"):
        return f"{address} is not checked: the server is not on this machine"
    try:
        with socket.socket() as probe:
            probe.bind((address, 0))
    except OSError as error:
        raise Refused(f"`edge.listen` is {address}, which is no address of this machine.") from error
    return f"{address} is an address of this machine"


def certificates(context: Context) -> str:
    """Check that the certificates of `[lxd]` and `[servers]` are readable, match their keys and do not expire soon."""
    servers = {"lxd": context.settings.lxd} | {f"servers.{name}": one for name, one in context.settings.servers.items()}
    told = []
    for name, server in servers.items():
        if server.certificate:
            told.append(f"`{name}` until {_pair(name, server.certificate, server.key):%Y-%m-%d}")
        elif server.endpoint.startswith("https://"):
            raise Refused(f"`{name}.certificate` is not set. Without one {server.endpoint} refuses the bot.")
        if server.server_certificate:
            _certificate(f"{name}.server_certificate", server.server_certificate)
    return ", ".join(told) or "none needed"


def _pair(name: str, certificate: str, key: str) -> datetime:
    found = _certificate(f"{name}.certificate", certificate)
    _read(f"{name}.key", key)
    try:
        # Without this OpenSSL would prompt for a password, and nobody is there to type one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise Refused(f"`{name}.key`, {key}, does not match {certificate}, or has a password.") from error
    return found.not_valid_after_utc


def _certificate(key: str, path: str) -> x509.Certificate:
    # Importing this takes a while, and most bots reach LXD through its socket, without a certificate.
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(_read(key, path))
    except ValueError as error:
        raise Refused(f"`{key}`, {path}, is not a PEM certificate.") from error
    if found.not_valid_after_utc < datetime.now(UTC) + SOON:
        raise Refused(f"`{key}`, {path}, expires on {found.not_valid_after_utc:%Y-%m-%d}. Renew the certificate.")
    return found


def _read(key: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Refused(f"`{key}`, {path}, can't be read: {error.strerror}.") from error


def archive(context: Context) -> str:
    """Check that each release's archive is readable and matches its `sha256`; URLs are not downloaded for this."""
    told = [_archive(one) for one in sources(context.settings)]
    if not told:
        return "none set, so new blueprints contain a demo stand-in, not the real Mautic"
    return "; ".join(told)


def _archive(source: Source) -> str:
    named = f"`{source.key}.archive`, {source.archive},"
    if source.archive.startswith(("http://", "https://")):
        return f"{source.archive}, downloaded when a blueprint is built"
    try:
        with open(source.archive, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Refused(f"{named} can't be read: {error.strerror}.") from error
    if digest != source.sha256:
        raise Refused(f"{named} does not match `{source.key}.sha256`: its checksum is {digest}.")
    return f"{source.archive} matches its sha256"


def app(context: Context) -> str:
    """Check that the Slack app has the scopes that the bot uses."""
    lacks = sorted(set(SCOPES) - context.people.scopes) if context.people.scopes else []
    if lacks:
        raise Refused(
            f"The Slack app lacks {', '.join(f'`{scope}`' for scope in lacks)}: replace its manifest with "
            "`docs/slack-manifest.json`, and reinstall the app."
        )
    return "has all scopes"


def channel(context: Context) -> str:
    """Check that the bot can post to `slack.channel`."""
    place = context.settings.slack.channel
    if not place:
        raise Refused("`slack.channel` is not set, so no digest or incident is posted")
    try:
        problem = context.people.channel_problem(place)
    except Untold as error:
        raise Refused(f"`slack.channel`: {error}. Try again in a minute.") from error
    if problem:
        raise Refused(f"`slack.channel`: {problem}. Until then no digest or incident is posted.")
    return f"posts to <#{place}>"


def roles(context: Context) -> str:
    """Check that somebody has each role that a policy names."""
    empty = []
    named = dict.fromkeys(role for one in context.settings.policies.values() for role in (*one.ask, *one.approve))
    for role in named:
        try:
            found = context.people.deciders([role], 1)
        except Untold as error:
            raise Refused("Slack does not say who has which role. Try again in a minute.") from error
        if not (found.everyone or found.people):
            why = f": {'; '.join(found.missing[:3])}" if found.missing else ""
            empty.append(f"Nobody has the role `{role}`{why}.")
    if empty:
        raise Refused(" ".join(empty))
    return f"each has members: {', '.join(f'`{role}`' for role in named)}"


def approvers(context: Context) -> str:
    """Check that enough people other than the requester can approve each kind of request."""
    short: dict[tuple[Deciders, int, tuple[str, ...]], list[str]] = {}
    for name, policy in context.settings.policies.items():
        if not (policy.ask and policy.approvals):
            continue
        try:
            found = context.people.deciders(policy.approve, policy.approvals + 1)
            # Nobody approves their own request: where approvers may request too, one more of them is needed.
            needed = policy.approvals + context.people.may_ask(found.people, policy)
        except Untold as error:
            raise Refused("Slack does not say who can approve. Try again in a minute.") from error
        if not found.everyone and len(found.people) < needed:
            short.setdefault((found, policy.approvals, tuple(policy.approve)), []).append(name)
    if short:
        raise Refused(" ".join(undecidable(names, *of) for of, names in short.items()))
    return "every request can be approved by somebody else"


def missing_heads(context: Context, since: float = 0.0) -> list[tuple[int, str]]:
    """Return the audit log heads in Slack's messages of the last week that the log lacks: (row, start of the hash).

    Newest first; empty without a channel. Raises NotPosted where Slack does not answer, and TooBusy where the bot found
    none but could not read all messages. `since`: epoch seconds, to look back less than a week.
    """
    place = context.settings.slack.channel
    if not place:
        return []
    heads = context.post.heads(place, since=max(since, context.now() - WEEK))
    lost = audit.unknown(context.database, heads.seen)
    if not (lost or heads.whole):
        raise TooBusy(
            f"The bot's channel is too busy to look back a week: only {PAGE * PAGES:,} of its messages were compared "
            "with the audit log."
        )
    return lost


CHECKS: Mapping[str, Callable[[Context], str]] = {
    "State": state,
    "Domain": domain,
    "Address": listen,
    "Certificates": certificates,
    "Archive": archive,
    "Slack app": app,
    "Channel": channel,
    "Roles": roles,
    "Approvers": approvers,
}
"""The checks of settings by the name that people read; none of them asks LXD or the edge."""


def warnings(context: Context, within: float) -> list[str]:
    """Return the problems of the settings, as sentences; a check that takes over `within` seconds is left out."""

    def problem(check: Callable[[Context], str]) -> str:
        try:
            check(context)
        except (Refused, LxdError) as error:
            return str(error)
        except Exception as error:
            # These are only warnings: the bot starts in spite of any error here.
            return explain(error, f"checking {check.__name__}")[0]
        return ""

    threads = ThreadPoolExecutor(len(CHECKS), "checks")
    asked = [threads.submit(problem, check) for check in CHECKS.values()]
    threads.shutdown(wait=False)
    done, _ = wait(asked, within)
    return [one.result() for one in asked if one in done and one.result()]
