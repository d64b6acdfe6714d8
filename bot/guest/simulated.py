"""Simulates a tenant in memory: answers `mautic-ctl` as the real tool does, from a state kept in the instance's files.

So copies and snapshots of the instance have its state too, and a test can make a tenant unhealthy:
`change(lxd, "client-x", stopped=["cron"], queue_age=5000)`. A little longer than other modules: one class has all verbs
that share its state. Those for upgrades, pages, consent and own data are in the `simulated_*` modules.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol

from bot.guest import simulated_consent, simulated_own, simulated_pages, simulated_upgrade
from bot.guest.blueprint.furniture import closes_itself
from bot.guest.blueprint.mautic_ctl.crons import CATCHES_UP, cron_states
from bot.guest.blueprint.mautic_ctl.system import FULL, CtlError
from bot.guest.simulated_state import change, read
from bot.lxd.protocol import Lxd, NotFound, PoolFull, size_bytes
from bot.model.labels import Role, State, label_of, moment_of

CLOSED, MUTE = "/etc/nginx/sealed", "/etc/nginx/muted"
OUTBOUND_OFF = "/var/lib/mautic-ops/outbound-off"
SERVICES = ("mariadb", "php8.2-fpm", "nginx", "cron", "mautic-worker@email")
PARTS = {
    "worker": ["mautic-worker@email"],
    "cron": ["cron"],
    "web": ["php8.2-fpm", "nginx"],
    "database": ["mariadb"],
}
CRONS = {
    "mautic:segments:update": 900,
    "mautic:campaigns:update": 900,
    "mautic:campaigns:trigger": 900,
    "mautic:messages:send": 300,
    "mautic:broadcasts:send": 300,
    "mautic:import": 180,
    "mautic:webhooks:process": 60,
    "mautic:webhooks:delete_logs": 86_400,
}
"""Seconds between the runs of each job."""
UNCOUNTED = "the kernel has stopped counting, as the quotas of the host's pool are inconsistent, and no limit holds"
"""The wording of the real tool."""


class SimulatedHost(Lxd, Protocol):
    """A server that also gives its instances the time and the disk figures that a tenant sees inside."""

    clock: Callable[[], float]

    def quota(self, name: str) -> tuple[int | None, int | None]:
        """Return the bytes that an instance refers to (None: not counted) and the limit on them (None: no limit)."""


def close_candidate(config: Mapping[str, str]) -> dict[str, bytes]:
    """Return the marker files that `mautic-closed` writes at the boot of an instance with these labels."""
    closed = label_of(config, "role") in (Role.INCOMING, Role.REHEARSAL) and label_of(config, "state") == State.MOVING
    return dict.fromkeys((MUTE, CLOSED), b"copy\n") if closed and closes_itself(config) else {}


def run_mautic_ctl(lxd: SimulatedHost, name: str, command: list[str], sent: bytes) -> Generator[bytes, bytes, None]:
    """Simulate `python3 -c … VERB` on the input that was sent to it, and yield its lines; other commands yield none."""
    if len(command) != 4 or command[0] != "/usr/bin/python3":
        return
    now = lxd.clock()
    verb = command[-1]
    request = json.loads(sent.partition(b"\n")[0])
    answer: dict[str, Any]
    try:
        tenant = _Tenant(lxd, name, now)
        tenant.work()
        if verb in _CHANGES:
            # The request is kept in the instance, without its secrets, for tests to inspect.
            asked = {key: value for key, value in request.items() if "password" not in key and "secret" not in key}
            lxd.push(name, f"/var/lib/mautic-ops/{verb}.json", json.dumps(asked).encode())
        if verb in tenant.state.refuses:
            answer = {"ok": False, "error": f"it does not {verb}"}
        elif verb in simulated_own.SPEAKS:
            answer = {"ok": True, **(yield from simulated_own.SPEAKS[verb](tenant, request))}
        elif verb in _VERBS:
            answer = {"ok": True, **_VERBS[verb](tenant, request)}
            _Tenant(lxd, name, now).work()
        else:
            answer = {"ok": False, "error": f"there is no verb {verb}"}
    except PoolFull:
        answer = {"ok": False, "error": FULL}
    except CtlError as error:
        answer = {"ok": False, "error": str(error)}
    yield json.dumps(answer).encode()
    if verb == "backup_lock" and answer.get("held"):
        yield b'{"ok": true, "kept": true, "seconds": 0.05}'


class _Tenant:
    """One tenant at one moment. Longer than other classes, because all its verbs share its state."""

    def __init__(self, lxd: SimulatedHost, name: str, now: float) -> None:
        self.lxd = lxd
        self.name = name
        self.now = now
        self.state = read(lxd, name)
        if self.full() and "mariadb" not in self.state.stopped:
            # MariaDB ends when it cannot write, and nobody starts it again once it can.
            self.stop("mariadb")
            self.state = read(lxd, name)

    def full(self) -> bool:
        used, limit = self.lxd.quota(self.name)
        return limit is not None and used is not None and used >= limit

    def closed_as(self) -> str:
        """Return why the tenant is closed, "" if it is open."""
        try:
            return self.lxd.pull(self.name, CLOSED).decode().strip() or "blueprint"
        except NotFound:
            return ""

    def furniture(self) -> int:
        """Return the furniture's version, by the label that the bot sets right after it has furnished the tenant."""
        told = label_of(self.lxd.instance(self.name).config, "furniture")
        return int(told) if told.isdecimal() else 1

    def has(self, path: str) -> bool:
        """Return whether a file exists in the tenant."""
        try:
            self.lxd.pull(self.name, path)
        except NotFound:
            return False
        return True

    def work(self) -> None:
        """Send due mail if nothing prevents it, as a worker does within a second."""
        due = [at for at in self.state.mails if at <= self.now]
        if due and not self.state.stopped and not any(map(self.has, (CLOSED, MUTE, OUTBOUND_OFF))):
            left = [at for at in self.state.mails if at > self.now]
            self.state = change(self.lxd, self.name, mails=left, sent=[*self.state.sent, *[self.now] * len(due)])

    def counted(self) -> dict[str, Any]:
        due = [at for at in self.state.mails if at <= self.now]
        kinds = {"queue": len(due), "messages": 0, "events": 0, "broadcasts": 0}
        return {"kinds": kinds, "waits": len(due), "oldest": int(min(due, default=0))}

    def mail(self, request: Mapping[str, Any]) -> dict[str, Any]:
        since = request.get("since")
        sent = sum(1 for at in self.state.sent if since and at >= since)
        return {**self.counted(), "off": self.has(OUTBOUND_OFF), "sent": sent}

    def release(self, request: Mapping[str, Any]) -> dict[str, Any]:
        counted, choice, batch = self.counted(), request["choice"], request["batch"]
        if not choice:
            waits_late = counted["waits"] and counted["oldest"] < self.now - request["late"]
            choice = "off" if self.has(OUTBOUND_OFF) or waits_late else "send"
        due = [at for at in self.state.mails if at <= self.now]
        if choice == "drop":
            left = [at for at in self.state.mails if at > self.now]
            change(self.lxd, self.name, mails=left, dropped=[*self.state.dropped, *[(batch, at) for at in due]])
        if choice == "back":
            only = request.get("only") or 0
            back = [at for of, at in self.state.dropped if only in (0, of)]
            kept = [one for one in self.state.dropped if only not in (0, one[0])]
            self.state = change(self.lxd, self.name, mails=[*self.state.mails, *back], dropped=kept)
            counted = self.counted()
        if choice in ("off", "back"):
            self.lxd.push(self.name, OUTBOUND_OFF, b"", mode=0o644)
        else:
            self.lxd.remove(self.name, OUTBOUND_OFF)
        if request["unmute"]:
            self.lxd.remove(self.name, MUTE)
        dropped = sum(1 for one, _ in read(self.lxd, self.name).dropped if one == batch) if choice == "drop" else 0
        return {**counted, "choice": choice, "dropped": dropped}

    def mark_closed(self, reason: str) -> None:
        self.lxd.push(self.name, CLOSED, f"{reason}\n".encode(), mode=0o644)

    def stop(self, *services: str) -> None:
        ended = self.state.crons_ended or self.now
        change(
            self.lxd, self.name, stopped=sorted({*self.state.stopped, *services}),
            crons_ended=ended if "cron" in services else self.state.crons_ended,
        )  # fmt: skip

    def start(self, *services: str) -> None:
        ended = self.state.crons_ended
        again = ended and "cron" in services and not self.closed_as()
        change(
            self.lxd, self.name, stopped=sorted({*self.state.stopped} - {*services}),
            crons_ended=0 if again else ended, rested=(ended, self.now) if again else self.state.rested,
            queue_age=0 if "mautic-worker@email" in services else self.state.queue_age,
        )  # fmt: skip

    def identity(self, _request: Mapping[str, Any]) -> dict[str, Any]:
        self.lxd.remove(self.name, CLOSED)
        return {"fresh": True, "seconds": 0.0}

    def furnish(self, request: Mapping[str, Any]) -> dict[str, Any]:
        version, before = request["version"], self.furniture()
        if version != before:
            change(self.lxd, self.name, furnished=(version, before))
        return {"version": version, "before": before}

    def unfurnish(self, request: Mapping[str, Any]) -> dict[str, Any]:
        version, before = self.state.furnished
        if version != request["version"]:
            return {"version": self.furniture()}
        change(self.lxd, self.name, furnished=(0, 0))
        return {"version": before}

    def backup_lock(self, _request: Mapping[str, Any]) -> dict[str, Any]:
        if "mariadb" in self.state.stopped:
            return {"held": False, "why": "MariaDB does not answer"}
        return {"held": True, "why": ""}

    def close(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self.mark_closed(f"closed {request['reason']}")
        self.stop("mautic-worker@email")
        # Jobs skip their runs while the tenant is closed.
        change(self.lxd, self.name, crons_ended=self.state.crons_ended or self.now)
        return {}

    def open(self, _request: Mapping[str, Any]) -> dict[str, Any]:
        self.lxd.remove(self.name, MUTE)
        self.lxd.remove(self.name, CLOSED)
        self.start(*SERVICES)
        return {}

    def quiesce(self, _request: Mapping[str, Any]) -> dict[str, Any]:
        self.lxd.push(self.name, MUTE, b"", mode=0o644)
        if not self.closed_as():
            self.mark_closed("moving")
        self.stop("mariadb", "php8.2-fpm", "cron", "mautic-worker@email")
        return {"seconds": 0.3}

    def stop_work(self, _request: Mapping[str, Any]) -> dict[str, Any]:
        self.lxd.push(self.name, MUTE, b"", mode=0o644)
        if not self.closed_as():
            self.mark_closed("moving")
        self.stop("cron", "mautic-worker@email")
        return {}

    def unquiesce(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if self.closed_as().startswith("closed"):
            self.lxd.remove(self.name, MUTE)
            self.start("mariadb", "php8.2-fpm", "nginx", "cron")
            return {}
        return self.open(request)

    def page(self, _request: Mapping[str, Any]) -> dict[str, Any]:
        simulated_upgrade.must_not_break(self, "page")
        return {"seconds": 0.1}

    def pages(self, request: Mapping[str, Any]) -> dict[str, Any]:
        broken = {"/s/login": 500, **self.state.broken_pages} if self.state.stopped else self.state.broken_pages
        return simulated_pages.answer(self.serving(), broken, thrown_away=request["thrown_away"])

    def counts(self, request: Mapping[str, Any]) -> dict[str, Any]:
        since = request["since"]
        found = {
            kind: sum(1 for one, at in self.state.writes if one == kind and at >= since)
            for kind in ("contacts", "submissions", "opt_outs")
        }
        found["contacts"] += 0 if since else self.state.contacts
        return {**found, "last_write": int(max((at for _, at in self.state.writes), default=0))}

    def restart(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if self.full():
            raise PoolFull(FULL)
        self.start(*PARTS[request["part"]])
        return {}

    def logs(self, request: Mapping[str, Any]) -> dict[str, Any]:
        lines = [f"simulated line {number} of {request['what']}" for number in range(1, request["lines"] + 1)]
        return {"text": "\n".join(lines)}

    def console(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"code": 0, "output": f"simulated: {' '.join(request['words'])}"}

    def resize(self, _request: Mapping[str, Any]) -> dict[str, Any]:
        self.start("mariadb")
        return {}

    def disk(self, request: Mapping[str, Any]) -> dict[str, Any]:
        used, limit = self.lxd.quota(self.name)
        limit = limit or (request.get("disk") or {}).get("limit")
        space = self.lxd.pool()
        free = space.total - space.used
        left = free if limit is None or used is None else min(free, limit - used)
        return {"used": used, "limit": limit, "free": max(0, left), "why": UNCOUNTED if used is None else ""}

    def used(self, _request: Mapping[str, Any]) -> dict[str, Any]:
        return {"used": self.lxd.quota(self.name)[0]}

    def sync(self, _request: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def serving(self) -> str:
        """Return the version that serves."""
        return self.state.version or label_of(self.lxd.instance(self.name).config, "version")

    def base(self, _request: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "since": moment_of(label_of(self.lxd.instance(self.name).config, "base")),
            "packages": self.state.packages,
        }

    def version(self, _request: Mapping[str, Any]) -> dict[str, Any]:
        return {"version": self.serving()}

    def crons(self, awake: float) -> dict[str, dict[str, Any]]:
        """Return the state of each job, `awake` seconds after the last gap in the bot's checks."""
        (began, ended), (slept, woke) = self.state.rested, self.state.slept
        rests = self.closed_as() or "cron" in self.state.stopped
        beats = {}
        for command, period in CRONS.items():
            # A job runs again a period after the machine woke up, or cron started.
            ran = slept if self.now < woke + period else self.now
            last = self.state.crons_ended or (began if self.now < ended + period else ran)
            beat = {"last_success": int(last), "end": last if rests else ran, "rc": 0}
            beats[command.replace(":", "_")] = beat
        times = {command: (period, period) for command, period in CRONS.items()}
        return cron_states(times, beats, ended, self.now, self.now - awake)

    def health(self, request: Mapping[str, Any]) -> dict[str, Any]:
        limits = request["limits"]
        state, closed = self.state, bool(self.closed_as())
        services = {name: "inactive" if name in state.stopped else "active" for name in SERVICES}
        down = [f"{name} is inactive" for name in state.stopped]
        database = "mariadb" not in state.stopped
        login = database and services["php8.2-fpm"] == services["nginx"] == "active"
        awake, patience = request.get("awake", self.now), limits["queue_minutes"] * 60
        crons = self.crons(awake)
        late = [f"{command} ({job['why']})" for command, job in crons.items() if job["late"]]
        # What is bad is not known to be so while a gap in the bot's checks may explain it.
        known = {"work": awake >= CATCHES_UP, "queues": awake > min(patience, CATCHES_UP), "crons": bool(late)}
        checks: dict[str, tuple[bool, str]] = {
            "open": (not closed, "closed to the public" if closed else "open"),
            "services": (not down, ", ".join(down) or f"{len(services)} active"),
            "login page": (login, f"{200 if login else 500} in 0.04 s"),
            "database": (database, "answers" if database else "does not answer"),
        }
        facts: dict[str, Any] = {
            "version": self.serving(),
            "closed": closed,
            "outbound_off": {"since": 0, "waits": self.counted()["waits"]} if self.has(OUTBOUND_OFF) else None,
            "services": services,
            "database": database,
        }
        if database:
            queue = {"due": 3 if state.queue_age else 0, "age": state.queue_age}
            facts |= {"contacts": state.contacts, "queues": {"email": queue}, "queue_age": state.queue_age}
            text = f"{queue['due']} in email, oldest {queue['age'] / 60:.0f} min" if queue["due"] else "0 waiting"
            checks["work"] = (not state.overdue, state.overdue or "on time")
            checks["queues"] = (not 0 < patience < state.queue_age, text)
            day = sum(1 for at in state.failed_mails if at > self.now - 86_400)
            facts["failed_mails"] = {"day": day, "kept": len(state.failed_mails)}
            checks["failed mail"] = (not day, str(day) if day else "none")
        well = all(job["known"] and not job["late"] for job in crons.values())
        checks["crons"] = (well, ", ".join(late) or f"{len(crons)} on time")
        checks["log"] = (not 0 < limits["log_errors"] < state.log_errors, str(state.log_errors))
        disk, memory = self.disk(request), self.lxd.instance(self.name).config.get("limits.memory")
        most = size_bytes(memory) if memory else request.get("memory")
        for name, used, limit in (("disk", disk["used"], disk["limit"]), ("memory", state.memory, most)):
            if used is None:
                checks[name] = (True, f"usage can't be measured ({disk['why']})")
                continue
            ok = not limit or not 0 < limit * limits[name] < used * 100
            checks[name] = (ok, f"{used / limit:.0%} used" if limit else "no limit")
        facts |= {"crons": crons, "log_errors_day": state.log_errors, "memory": state.memory, "memory_limit": most}
        facts |= {"disk": disk, "furniture": self.furniture()}
        told: dict[str, dict[str, Any]] = {
            name: {"ok": ok or not known.get(name, True), "text": text, "known": ok or known.get(name, True)}
            for name, (ok, text) in checks.items()
        }
        told["disk"]["known"] = disk["used"] is not None
        return {"healthy": all(check["ok"] for check in told.values()), "checks": told, "facts": facts}


_VERBS: dict[str, Callable[[_Tenant, Mapping[str, Any]], dict[str, Any]]] = {
    "identity": _Tenant.identity,
    "furnish": _Tenant.furnish,
    "unfurnish": _Tenant.unfurnish,
    "backup_lock": _Tenant.backup_lock,
    "close": _Tenant.close,
    "open": _Tenant.open,
    "quiesce": _Tenant.quiesce,
    "stop_work": _Tenant.stop_work,
    "unquiesce": _Tenant.unquiesce,
    "page": _Tenant.page,
    "pages": _Tenant.pages,
    "mail": _Tenant.mail,
    "release": _Tenant.release,
    "counts": _Tenant.counts,
    "restart": _Tenant.restart,
    "logs": _Tenant.logs,
    "console": _Tenant.console,
    "resize": _Tenant.resize,
    "health": _Tenant.health,
    "disk": _Tenant.disk,
    "used": _Tenant.used,
    "sync": _Tenant.sync,
    "version": _Tenant.version,
    "base": _Tenant.base,
    "adopt": simulated_own.adopt,
    **simulated_upgrade.VERBS,
    **simulated_consent.VERBS,
}
_CHANGES = frozenset(
    [
        "identity",
        "close",
        "open",
        "quiesce",
        "stop_work",
        "unquiesce",
        "restart",
        "console",
        "resize",
        "furnish",
        "unfurnish",
    ],
)
