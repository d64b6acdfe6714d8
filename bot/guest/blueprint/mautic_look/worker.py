"""`mautic-worker QUEUE[-NUMBER]`: a worker of Mautic's, for as long as its queue has messages.

It looks at the queue all the time, and runs `messenger:consume` from the first message on until there was none for a
minute. Page hits, which are queued too, are taken while the queue itself is empty; where they wait beside a send, which
may last for hours, the first worker has a second process for them.
"""

import os
import signal
import sys
import time

from .database import Database, DatabaseAway, DatabaseRefused

CONSOLE = "/var/www/mautic/bin/console"
PHP = "/usr/bin/php"
"""Which Debian has lead to the newest that is installed."""
EVERY = 1.5
"""Seconds between two looks: a worker is to begin within two of the first message."""
HELPER_EVERY = 5.0
"""The same of a second worker and of those after it."""
SURELY = 10.0
"""Seconds after which the queue is looked at although nobody told the database anything: a message that is tried again
later comes due by the time alone."""
IDLE = 60.0
"""Seconds without a message after which a worker ends."""
BACK_OFF = 10.0
"""Seconds after which one that failed is started again."""
HITS = "hit"
STARVED = 5
"""Seconds that page hits wait, for a process of their own to take them."""
SHARE = 100
"""Messages that wait for each worker before the next one helps."""


def waiting(queues: list[str], at_least: int, since: int = 0) -> str:
    """Return the query that gives a row where so many messages are due, and have been for `since` seconds.

    As Symfony's transport asks: one that a worker took an hour ago is due again, as that worker has died. What seems
    to have been written in the future was written in another time zone, so its time tells nothing: it may be due.
    """
    names = ", ".join(f"'{name}'" for name in queues)
    return (
        f"SELECT 1 FROM messenger_messages WHERE queue_name IN ({names})"  # noqa: S608 - names of queues
        f" AND (available_at <= UTC_TIMESTAMP() - INTERVAL {since} SECOND"
        " OR created_at > UTC_TIMESTAMP() + INTERVAL 1 MINUTE)"
        " AND (delivered_at IS NULL OR delivered_at < UTC_TIMESTAMP() - INTERVAL 1 HOUR)"
        f" LIMIT 1 OFFSET {at_least - 1}"
    )


class Need:
    """When a worker is started and ended; times are seconds of one clock."""

    def __init__(self) -> None:
        self.last_due = 0.0
        self.not_before = 0.0

    def wanted(self, due: bool | None, now: float, *, runs: bool) -> bool:
        """Return whether a worker should run, from whether messages are due; None: nobody can tell."""
        if due:
            self.last_due = now
        if runs:
            return due is None or now - self.last_due < IDLE
        return bool(due) and now >= self.not_before

    def ended(self, code: int, now: float) -> None:
        """Note that a worker ended; one that failed is not started again at once."""
        self.not_before = now + BACK_OFF if code else now


class Queue:
    """A queue that is looked at where something may have changed in it: a look costs more than to hear of none."""

    def __init__(self, database: Database, queues: list[str], helper: int) -> None:
        self._database = database
        self._first, self._any = waiting(queues, 1 + SHARE * helper), waiting(queues, 1)
        self._seen, self._changed, self._looked = -1, False, 0.0

    def due(self, now: float, *, runs: bool) -> bool | None:
        """Return whether messages are due, for a worker that `runs` any at all; None: nobody can tell."""
        try:
            return self._due(now, runs=runs)
        except DatabaseAway:
            return None
        except DatabaseRefused:
            # In doubt a worker looks itself.
            return True

    def starve(self, *, taken: bool) -> bool:
        """Whether page hits have waited although a worker runs: it takes none while its queue has anything else.

        `taken`: a process of their own takes them, and any is enough for it to go on.
        """
        try:
            return bool(self._database.rows(waiting([HITS], 1, 0 if taken else STARVED)))
        except (DatabaseAway, DatabaseRefused):
            return False

    def _due(self, now: float, *, runs: bool) -> bool:
        if not runs:
            told = self._database.questions()
            # A statement is counted when it begins: what it writes may be there at the next look only.
            before, self._changed = self._changed, told != self._seen
            self._seen = told
            if not (self._changed or before or now - self._looked >= SURELY):
                return False
            # This look itself is counted too.
            self._seen += 1
        self._looked = now
        return bool(self._database.rows(self._any if runs else self._first))


class Consumer:
    """A process of `messenger:consume`, where one is needed."""

    def __init__(self, queues: list[str]) -> None:
        self._queues = queues
        self._need = Need()
        self._child = 0

    @property
    def runs(self) -> bool:
        return bool(self._child)

    def look(self) -> None:
        """See whether it has ended."""
        if self._child and (code := self._ended()) is not None:
            self._child = 0
            self._need.ended(code, time.monotonic())

    def go_by(self, due: bool | None) -> None:
        """Start or end it, as messages are due or not; None: nobody can tell."""
        wanted = self._need.wanted(due, time.monotonic(), runs=self.runs)
        if wanted and not self._child:
            self._child = self._start()
        elif self._child and not wanted:
            os.kill(self._child, signal.SIGTERM)

    def stop(self) -> None:
        """Let it end after the message at hand."""
        if self._child:
            os.kill(self._child, signal.SIGTERM)

    def join(self) -> None:
        """Wait for its end."""
        if self._child:
            os.waitpid(self._child, 0)

    def _start(self) -> int:
        limits = ["--time-limit=3600", "--memory-limit=256M"]
        argv = [PHP, CONSOLE, "messenger:consume", *self._queues, *limits, "-n", "--no-ansi"]
        return os.posix_spawn(PHP, argv, os.environ, setsigmask=[])

    def _ended(self) -> int | None:
        """The exit code of one that has ended, 0 of one that was told to; None: it runs."""
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if not pid:
            return None
        code = os.waitstatus_to_exitcode(status)
        return 0 if code == -signal.SIGTERM else code


def main() -> None:
    """Look, and run workers, until a SIGTERM; the message at hand is worked on to its end."""
    name = sys.argv[1]
    queue, _, number = name.partition("-")
    helper = int(number or 1) - 1
    queues = list(dict.fromkeys([queue, HITS]))
    messages, consumer, hits = Queue(Database(), queues, helper), Consumer(queues), Consumer([HITS])
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
    while True:
        every = HELPER_EVERY if helper and not consumer.runs else EVERY
        told = signal.sigtimedwait([signal.SIGTERM, signal.SIGCHLD], every)
        if told and told.si_signo == signal.SIGTERM:
            break
        consumer.look()
        hits.look()
        consumer.go_by(messages.due(time.monotonic(), runs=consumer.runs))
        if queue != HITS and not helper and (consumer.runs or hits.runs):
            hits.go_by(consumer.runs and messages.starve(taken=hits.runs))
    for one in (consumer, hits):
        one.stop()
    for one in (consumer, hits):
        one.join()
