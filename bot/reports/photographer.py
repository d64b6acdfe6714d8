"""Takes pictures of a tenant's pages, as a process of its own: `python -m bot.reports.photographer`, JSON in and out.

The pages are hostile, so the process gives up everything it does not need before it reads the first byte of one. It is
started without a network and without sight of other processes (`pictures.py`), and as root it becomes `nobody`.
"""

from __future__ import annotations

import os
import pwd
import resource
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from bot.reports import differences
from bot.reports.browser import Browser, Captured, NoPicture
from bot.reports.pictures import NOBODY, Answer, Job, Picture

SIZES = ((1280, 900), (390, 844))
"""The window sizes of pictures in pixels: of a desktop, and of a phone."""
MEMORY, FILE = 3 << 30, 64 << 20
"""The most bytes of private memory of each process, and of a file that it writes."""


class Photographer:
    """Takes the pictures of a job, in a browser that is restarted after each page that it could not show."""

    def __init__(self, job: Job, end: float) -> None:
        self._job = job
        self._end = end
        self._browser: Browser | None = None
        self._sandbox = True
        self._profiles = 0
        self._sides = [
            {page.path: Captured(page.status, page.type, page.body) for page in side}
            for side in (job.before, job.after)
        ]

    def work(self) -> Answer:
        """Take all pictures; the `why` of a page without one says why."""
        after = {page.key: page.path for page in self._job.after}
        wanted = [(page.key, page.path, after[page.key]) for page in self._job.before if page.key in after]
        try:
            return Answer([self._picture(*one) for one in wanted if one[0] != "linked"])
        except NoPicture as error:
            return Answer([], str(error))
        finally:
            self._close()

    def _picture(self, key: str, before: str, after: str) -> Picture:
        if not self._browser:
            self._start()
        try:
            shots = [self._shoot(side, path) for side, path in zip(self._sides, (before, after), strict=True)]
            pairs = [differences.Pair(*pair) for pair in zip(*shots, strict=True)]
            share, png = differences.side_by_side(pairs)
        except (NoPicture, ValueError, OSError) as error:
            self._close()
            return Picture(
                key, after, why=str(error) if isinstance(error, NoPicture) else "Chromium's picture is none."
            )
        return Picture(key, after, share, png)

    def _shoot(self, side: dict[str, Captured], path: str) -> list[bytes]:
        if time.monotonic() > self._end or not self._browser:
            raise NoPicture("Time was up.")
        return self._browser.photograph(self._job.domain, path, side, SIZES)

    def _start(self) -> None:
        """Start a browser with a sandbox; without one only where this process itself has no rights (`Job.apart`).

        Raises NoPicture where it does not start.
        """
        for sandbox in (True, False) if self._sandbox else (False,):
            profile = Path(self._job.folder, f"profile-{self._profiles}")
            self._profiles += 1
            try:
                self._browser = Browser(self._job.program, profile, sandbox=sandbox, patience=self._job.patience)
                self._sandbox = sandbox
                return
            except NoPicture:
                if not (sandbox and self._job.apart):
                    raise NoPicture("Chromium does not start.") from None

    def _close(self) -> None:
        if self._browser:
            self._browser.close()
            self._browser = None

    def end(self) -> None:
        """Kill the browser and end this process."""
        self._close()
        os._exit(1)


def drop_privileges(folder: str) -> None:
    """Become `nobody` where this process is root, limit its memory and the size of files, and lower its priority.

    `folder` becomes the working directory.
    """
    Path("/proc/self/oom_score_adj").write_text("1000")
    os.nice(10)
    os.umask(0o077)
    for what, most in ((resource.RLIMIT_DATA, MEMORY), (resource.RLIMIT_FSIZE, FILE), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(what, (most, most))
    if os.geteuid() == 0:
        nobody = pwd.getpwnam(NOBODY)
        os.setgroups([])
        os.setresgid(nobody.pw_gid, nobody.pw_gid, nobody.pw_gid)
        os.setresuid(nobody.pw_uid, nobody.pw_uid, nobody.pw_uid)
    os.chdir(folder)


def main(folder: str, seconds: float) -> None:
    """Take the pictures of the job on standard input within `seconds`, and write the answer to standard output."""
    end = time.monotonic() + seconds
    differences.prepare()
    job_of, answer_as = msgspec.json.Decoder(Job), msgspec.json.Encoder()
    drop_privileges(folder)
    photographer = Photographer(job_of.decode(sys.stdin.buffer.read()), end)
    timer = threading.Timer(seconds + 10, photographer.end)
    timer.daemon = True
    timer.start()
    signal.signal(signal.SIGTERM, lambda *_: photographer.end())
    answer = answer_as.encode(photographer.work())
    with suppress(BrokenPipeError):
        sys.stdout.buffer.write(answer)
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
