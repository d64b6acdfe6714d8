"""Helpers: files, programs, SQL and well-known paths."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

MAUTIC = Path("/var/www/mautic")
STATE = Path("/var/lib/mautic-ops")
BEATS, IDENTITY = STATE / "cron", STATE / "identity.json"
CLOSED, MUTE = Path("/etc/nginx/sealed"), Path("/etc/nginx/muted")
CRONTAB = Path("/etc/cron.d/mautic")
LOCK = Path("/run/mautic-ctl.lock")
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
PHP_FOLDER = Path("/etc/php")
"""The folder in which Debian keeps a folder for each version of PHP."""
BEFORE_SUITES = "8.2"
"""The version of PHP to assume if PHP_FOLDER shows none."""
FULL = "its disk is full"
UNIT_STOPS = 310
"""Seconds that systemctl may take: systemd kills MariaDB, which ends slowest, after 300."""


def php_series(folder: Path = PHP_FOLDER) -> str:
    """Return the installed version of PHP as Debian names it (`8.2`): the newest one that has PHP-FPM."""
    found = [path.parent.name for path in folder.glob("[0-9]*.[0-9]*/fpm")]
    numbers = [name for name in found if re.fullmatch(r"\d+\.\d+", name)]
    return max(numbers, key=lambda name: [int(part) for part in name.split(".")], default=BEFORE_SUITES)


PHP = php_series()
PROGRAM, FPM = f"php{PHP}", f"php{PHP}-fpm"
"""The command-line program, and the service that serves pages."""


class CtlError(Exception):
    """An error whose text is one sentence for a person, without secrets."""


def asked(request: Mapping[str, Any], *keys: str) -> list[Any]:
    """Return the values of keys that the request must have; raises CtlError naming a missing one."""
    for key in keys:
        if request.get(key) in (None, ""):
            raise CtlError(f"the request lacks `{key}`")
    return [request[key] for key in keys]


def in_words(number: float) -> str:
    """Return a number of bytes for people, in the units that sizes are given in: `1.3 GiB`."""
    unit = "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(number) < 1000 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"


def sql_text(value: str) -> str:
    """Return a string as an SQL literal."""
    if "\0" in value:
        raise CtlError("a value for the database holds a NUL character")
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def write(path: Path, text: str, mode: int = 0o644, owner: int | str = -1, group: int | str = -1) -> None:
    """Replace a file atomically; it belongs to the calling user unless `owner` or `group` say otherwise.

    The new file is created under a name that must be free, so that no link planted there is followed.
    """
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        shutil.chown(file.fileno(), owner, group)
        os.fchmod(file.fileno(), mode)
        file.write(text)
    new.replace(path)


def empty(folder: Path) -> None:
    """Delete the contents of a folder, if it exists."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Return a file's JSON object, {} if the file is missing, incomplete or holds something else."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def run(*argv: str, stdin: str = "", user: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program to its end with a bare environment; `user` also gives the group."""
    return subprocess.run(
        argv, input=stdin, user=user, group=user, extra_groups=[] if user else None, timeout=timeout, text=True,
        capture_output=True, cwd="/", env=ENVIRONMENT,
    )  # fmt: skip


def systemctl(*words: str) -> None:
    """Run systemctl; raises CtlError with its first error line, or when it takes longer than a slow stop may."""
    try:
        ended = run("systemctl", *words, timeout=UNIT_STOPS)
    except subprocess.TimeoutExpired:
        raise CtlError(f"systemctl {' '.join(words)} did not end within {UNIT_STOPS} s") from None
    if ended.returncode:
        raise CtlError(f"systemctl {' '.join(words)} failed: {ended.stderr.strip().partition(chr(10))[0]}")


def console(*words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run one of Mautic's commands as www-data; the caller judges the result, as the exit code cannot be trusted."""
    return run(PROGRAM, str(MAUTIC / "bin/console"), *words, "-n", "--no-ansi", user="www-data", timeout=timeout)


def console_for(seconds: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one of Mautic's commands as `console` does, but stop it after `seconds`, with the exit code 124."""
    limit = ["timeout", "--kill-after=10", str(seconds)]
    php = [PROGRAM, str(MAUTIC / "bin/console")]
    return run(*limit, *php, *words, "-n", "--no-ansi", user="www-data", timeout=seconds + 30)


def await_systemd(deadline: float = 60) -> None:
    """Wait until systemd in a freshly started container accepts commands; raises CtlError after `deadline` seconds."""
    give_up = time.monotonic() + deadline
    while not Path("/run/systemd/private").exists():
        if time.monotonic() > give_up:
            raise CtlError(f"the container did not boot within {deadline:.0f} s")
        time.sleep(0.01)


def sql(statements: str, database: str = "", *, force: bool = False, timeout: float = 60) -> list[list[str]]:
    """Execute statements as the database's root, over its socket, and return all rows.

    Raises CtlError with the error's number, never its text, which may hold a secret, and TimeoutExpired; with `force`,
    skips a statement that fails.
    """
    argv = ["mariadb", "--batch", "--skip-column-names", "--default-character-set=utf8mb4"]
    ended = run(*argv, *["--force"] * force, *[database] * bool(database), stdin=statements, timeout=timeout)
    if ended.returncode and not force:
        number = re.search(r"ERROR \d+ \(\w+\)", ended.stderr)
        raise CtlError(f"the database refused a statement ({number[0] if number else 'no connection'})")
    return [line.split("\t") for line in ended.stdout.splitlines()]


def php(code: str, stdin: str) -> "subprocess.Popen[str]":
    """Start PHP on a piece of code with `stdin` as its input, as www-data because a client's own code may run."""
    process = subprocess.Popen(
        [PROGRAM, "-n", "-d", "display_errors=stderr", "-r", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, user="www-data", group="www-data", extra_groups=[], cwd="/", text=True,
    )  # fmt: skip
    with cast(IO[str], process.stdin) as pipe:
        pipe.write(stdin)
    process.stdin = None
    return process


def output_of(process: "subprocess.Popen[str]", doing: str) -> str:
    """Return the output of a PHP process; raises CtlError when it failed or printed nothing."""
    output = process.communicate(timeout=60)[0]
    if process.returncode or not output:
        raise CtlError(f"PHP could not {doing}")
    return output


def php_version() -> str:
    """Return the version of PHP."""
    return output_of(php("echo PHP_VERSION;", ""), "say its version")


def mautic_version() -> str:
    """Return Mautic's version, read from its files; raises CtlError when there is no Mautic."""
    found = read_json(MAUTIC / "app/release_metadata.json").get("version")
    if not found:
        raise CtlError(f"there is no Mautic in {MAUTIC}")
    return str(found)
