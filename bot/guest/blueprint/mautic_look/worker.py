"""`mautic-worker QUEUE[-NUMBER]`: runs one of Mautic's workers while its queue has messages.

The process polls the queue, and runs `messenger:consume` from the first message until there has been none for a minute.
Page hits, which are queued too, are processed while the queue itself is empty. If they wait during a send, which may
last for hours, the first worker starts a second process for them.
"""

import os
import signal
import sys
import time

from .database import Database, DatabaseAway, DatabaseRefused

CONSOLE = "/var/www/mautic/bin/console"
PHP = "/usr/bin/php"
"""Debian's link to the newest installed version."""
EVERY = 1.5
"""Seconds between two looks at the queue: a worker should start within two seconds of the first message."""
HELPER_EVERY = 5.0
"""The same for the second and later workers."""
SURELY = 10.0
"""Seconds after which the queue is read even if the database has received no statement: a message that is to be retried
becomes due by time alone."""
IDLE = 60.0
"""Seconds without a message after which a worker ends."""
BACK_OFF = 10.0
"""Seconds after which a failed worker is started again."""
HITS = "hit"
STARVED = 5
"""Seconds that page hits must have waited before they get a process of their own."""
SHARE = 100
"""Messages that must wait per running worker before the next worker starts."""


def waiting(queues: list[str], at_least: int, since: int = 0) -> str:
    """Return the query that yields a row if at least `at_least` messages have been due for `since` seconds.

    It follows Symfony's transport: a message that a worker took an hour ago is due again, as that worker has died. A
    message with a creation time in the future was written in another time zone; its time says nothing, so it counts as
    due.
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
    """Decides when a worker is started and stopped; times are seconds of one clock."""

    def __init__(self) -> None:
        self.last_due = 0.0
        self.not_before = 0.0

    def wanted(self, due: bool | None, now: float, *, runs: bool) -> bool:
        """Return whether a worker should run; `due` says whether messages are due, None if that is unknown."""
        if due:
            self.last_due = now
        if runs:
            return due is None or now - self.last_due < IDLE
        return bool(due) and now >= self.not_before

    def ended(self, code: int, now: float) -> None:
        """Note that a worker has ended; after a failure it is not started again at once."""
        self.not_before = now + BACK_OFF if code else now


class Queue:
    """A queue that is read only if something may have changed in it: asking whether costs less than reading it."""

    def __init__(self, database: Database, queues: list[str], helper: int) -> None:
        self._database = database
        self._first, self._any = waiting(queues, 1 + SHARE * helper), waiting(queues, 1)
        self._seen, self._changed, self._looked = -1, False, 0.0

    def due(self, now: float, *, runs: bool) -> bool | None:
        """Return whether messages are due, None if the database does not answer.

        For a worker that `runs` any message counts; to start one, as many as this helper waits for.
        """
        try:
            return self._due(now, runs=runs)
        except DatabaseAway:
            return None
        except DatabaseRefused:
            # In doubt a worker runs and looks for itself.
            return True

    def starve(self, *, taken: bool) -> bool:
        """Return whether page hits have waited although a worker runs, which takes none while other messages wait.

        `taken`: a process of their own takes them; it continues while there is any page hit.
        """
        try:
            return bool(self._database.rows(waiting([HITS], 1, 0 if taken else STARVED)))
        except (DatabaseAway, DatabaseRefused):
            return False

    def _due(self, now: float, *, runs: bool) -> bool:
        if not runs:
            told = self._database.questions()
            # MariaDB counts a statement when it begins: what it writes may not be visible before the next look.
            before, self._changed = self._changed, told != self._seen
            self._seen = told
            if not (self._changed or before or now - self._looked >= SURELY):
                return False
            # The query below is counted too.
            self._seen += 1
        self._looked = now
        return bool(self._database.rows(self._any if runs else self._first))


class Consumer:
    """A process of `messenger:consume`, started and stopped as needed."""

    def __init__(self, queues: list[str]) -> None:
        self._queues = queues
        self._need = Need()
        self._child = 0

    @property
    def runs(self) -> bool:
        return bool(self._child)

    def look(self) -> None:
        """Note it if the process has ended."""
        if self._child and (code := self._ended()) is not None:
            self._child = 0
            self._need.ended(code, time.monotonic())

    def go_by(self, due: bool | None) -> None:
        """Start or stop the process, depending on whether messages are due; None: unknown."""
        wanted = self._need.wanted(due, time.monotonic(), runs=self.runs)
        if wanted and not self._child:
            self._child = self._start()
        elif self._child and not wanted:
            os.kill(self._child, signal.SIGTERM)

    def stop(self) -> None:
        """Make the process end after its current message."""
        if self._child:
            os.kill(self._child, signal.SIGTERM)

    def join(self) -> None:
        """Wait for the end of the process."""
        if self._child:
            os.waitpid(self._child, 0)

    def _start(self) -> int:
        limits = ["--time-limit=3600", "--memory-limit=256M"]
        argv = [PHP, CONSOLE, "messenger:consume", *self._queues, *limits, "-n", "--no-ansi"]
        return os.posix_spawn(PHP, argv, os.environ, setsigmask=[])

    def _ended(self) -> int | None:
        """Return the exit code of the process, 0 if SIGTERM ended it, None while it runs."""
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if not pid:
            return None
        code = os.waitstatus_to_exitcode(status)
        return 0 if code == -signal.SIGTERM else code


def main() -> None:
    """Watch the queue and run workers until a SIGTERM; the current message is finished first."""
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
