#!/usr/bin/python3
# ruff: noqa: S608 - every value in SQL goes through sql_text()
"""What is done inside a tenant: `mautic-ctl VERB REQUEST_FILE RESULT_FILE`, as root.

The bot pushes this file before each use, so it is one file and needs only the standard library of Python 3.11.
The request is JSON in a file that is deleted once read; the answer is JSON in a file of mode 0600, `{"ok": true, …}`
or `{"ok": false, "error": "<a sentence>"}`. Secrets come in the request alone: no argument, output or error holds one.

Verbs, with what they ask (`?` may be absent) and answer:
- `install`  site_url → version, already: install Mautic, whose files lie in place, into an empty database.
- `seal`     → {}: make an installed Mautic a blueprint: no identity, nothing running, closed to the outside.
- `identity` hostname, domain, site_url, admin {username, email, password, first_name?, last_name?}, db_password,
  secret_key, innodb_buffer_pool, fpm_children, email_workers, edge_address? → fresh, seconds: re-key a clone, open it.
- `health`   → healthy, checks {name: {ok, text}}, facts {…}.
- `version`  → version, double.
"""

import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, cast

MAUTIC = Path("/var/www/mautic")
LOCAL, PROVIDER = MAUTIC / "config/local.php", MAUTIC / "config/parameters_local.php"
STATE = Path("/var/lib/mautic-ops")
BEATS, IDENTITY, BASELINE = STATE / "cron", STATE / "identity.json", STATE / "migrations-baseline.json"
SEAL = Path("/etc/nginx/sealed")
EDGE = Path("/etc/nginx/conf.d/edge.conf")
CRONTAB = Path("/etc/cron.d/mautic")
DATABASE_PLAN = Path("/etc/mysql/mariadb.conf.d/90-plan.cnf")
PHP_PLAN = Path("/etc/php/8.2/fpm/pool.d/zz-plan.conf")
DATABASE_SOCKET, INSIDE_SOCKET = Path("/run/mysqld/mysqld.sock"), Path("/run/nginx-inside.sock")
LOCK = Path("/run/mautic-ctl.lock")
WORKER_UNIT = Path("/etc/systemd/system/mautic-worker@.service")
WANTS = Path("/etc/systemd/system/multi-user.target.wants")
SERVICES = ("mariadb", "php8.2-fpm", "nginx", "cron")

WRITABLE = ("config", "var", "media", "translations")
FOLDERS = ("var/cache", "var/logs", "var/tmp", "var/spool", "var/import", "media/files/temp", "media/images")

IDENTITY_TABLES = [
    "audit_log",
    "notifications",
    "user_tokens",
    "oauth2_accesstokens",
    "oauth2_refreshtokens",
    "oauth2_authcodes",
    "oauth2_clients",
    "ip_addresses",
    "messenger_messages",
]
"""Tables that a clone must not inherit rows of: they name other people, open doors, or would be sent twice."""

FORGET = "".join(f"DELETE FROM {table}; " for table in IDENTITY_TABLES)

PROVIDER_PARAMETERS: dict[str, Any] = {
    # The defaults lose mail: no queue, no failure queue, retries within seconds.
    "messenger_dsn_email": "doctrine://default?queue_name=email",
    "messenger_dsn_hit": "doctrine://default?queue_name=hit",
    "messenger_dsn_failed": "doctrine://default?queue_name=failed",
    "messenger_retry_strategy_max_retries": 5,
    "messenger_retry_strategy_delay": 60000,
    "messenger_retry_strategy_multiplier": 3.0,
    # Updates are the provider's to make, and a client's figures are nobody else's.
    "system_update_url": "",
    "stats_update_url": "",
    "sysinfo_disabled": True,
}
"""Parameters the client's own settings page cannot undo."""

RENDER_PARAMETERS = """
$job = json_decode(stream_get_contents(STDIN), true);
$parameters = [];
ob_start();
if (is_file($job['local'])) { include $job['local']; }
ob_end_clean();
$text = fn ($parameters) => "<?php\\n\\$parameters = " . var_export($parameters, true) . ";\\n";
echo json_encode([
    'before' => (object) $parameters,
    'local' => $text(array_diff_key(array_replace($parameters, $job['set']), array_flip($job['remove']))),
    'provider' => $text($job['provider']),
]);
"""
BCRYPT = 'echo password_hash(rtrim(stream_get_contents(STDIN), "\\n"), PASSWORD_BCRYPT, ["cost" => 10]);'
"""PHP's own cost. A higher one protects passwords that people choose; this one is random, and someone waits for it."""
ADMIN_PARAMETERS = ("admin_firstname", "admin_lastname", "admin_username", "admin_email", "admin_password")


class CtlError(Exception):
    """What went wrong, in one sentence for a person, without secrets."""


# --- small means ---------------------------------------------------------------------------------------------------


def asked(request: Mapping[str, Any], *keys: str) -> list[Any]:
    """Return the values of keys that the request must have; raises CtlError naming a missing one."""
    for key in keys:
        if request.get(key) in (None, ""):
            raise CtlError(f"the request lacks `{key}`")
    return [request[key] for key in keys]


def sql_text(value: str) -> str:
    """Return a string as an SQL literal."""
    if "\0" in value:
        raise CtlError("a value for the database holds a NUL character")
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def trusted_host(domain: str) -> str:
    """Return Mautic's `trusted_hosts` pattern that fits this domain alone."""
    return "^" + domain.replace(".", r"\.") + "$"


def bytes_of(size: str) -> int:
    """Return the bytes of a MariaDB size such as `768M`; raises CtlError."""
    match = re.fullmatch(r"([1-9]\d*)([KMG]?)", size)
    if not match:
        raise CtlError(f"“{size}” is not a size for MariaDB; write one such as 768M")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def write(path: Path, text: str, mode: int = 0o644, owner: int | str = -1, group: int | str = -1) -> None:
    """Replace a file as a whole; it is one's own unless told otherwise.

    The new file is made by a name that must be free, so that no link planted there is followed.
    """
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        shutil.chown(file.fileno(), owner, group)
        os.fchmod(file.fileno(), mode)
        file.write(text)
    new.replace(path)


def empty(folder: Path) -> None:
    """Delete what a folder holds; a folder that is not there is empty."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Return a file's JSON object, empty where the file is not there or not whole."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def run(*argv: str, stdin: str = "", user: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program to its end with a bare environment; `user` also gives the group."""
    return subprocess.run(
        argv, input=stdin, user=user, group=user, extra_groups=[] if user else None, timeout=timeout, text=True,
        capture_output=True, cwd="/", env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip


def systemctl(*words: str) -> None:
    """Run systemctl; raises CtlError with what it says."""
    ended = run("systemctl", *words, timeout=300)
    if ended.returncode:
        raise CtlError(f"systemctl {' '.join(words)} failed: {ended.stderr.strip().splitlines()[:1]}")


def console(*words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run one of Mautic's commands as www-data; the caller judges it, since its exit code cannot be trusted."""
    return run("php8.2", str(MAUTIC / "bin/console"), *words, "-n", "--no-ansi", user="www-data", timeout=timeout)


def await_database(deadline: float = 60) -> None:
    """Wait until MariaDB accepts connections on its socket; raises CtlError after `deadline` seconds."""
    give_up = time.monotonic() + deadline
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(DATABASE_SOCKET))
                return
            except OSError:
                if time.monotonic() > give_up:
                    raise CtlError(f"MariaDB did not start within {deadline:.0f} s") from None
        time.sleep(0.02)


def sql(statements: str, database: str = "", *, force: bool = False) -> list[list[str]]:
    """Execute statements as the database's root, by socket, and return all rows.

    Raises CtlError with the error's number, never its text, which may hold a secret; with `force` a statement that
    fails is passed over.
    """
    argv = ["mariadb", "--batch", "--skip-column-names", "--default-character-set=utf8mb4"]
    ended = run(*argv, *["--force"] * force, *[database] * bool(database), stdin=statements)
    if ended.returncode and not force:
        number = re.search(r"ERROR \d+ \(\w+\)", ended.stderr)
        raise CtlError(f"the database refused a statement ({number[0] if number else 'no connection'})")
    return [line.split("\t") for line in ended.stdout.splitlines()]


def php(code: str, stdin: str) -> "subprocess.Popen[str]":
    """Start PHP on a piece of code as www-data (a client's own code may run), with `stdin` on its way to it."""
    process = subprocess.Popen(
        ["php8.2", "-n", "-d", "display_errors=stderr", "-r", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, user="www-data", group="www-data", extra_groups=[], cwd="/", text=True,
    )  # fmt: skip
    with cast(IO[str], process.stdin) as pipe:
        pipe.write(stdin)
    process.stdin = None
    return process


def output_of(process: "subprocess.Popen[str]", doing: str) -> str:
    """Return what a started PHP printed; raises CtlError when it failed."""
    output = process.communicate(timeout=60)[0]
    if process.returncode or not output:
        raise CtlError(f"PHP could not {doing}")
    return output


def write_parameters(local: Mapping[str, Any], provider: Mapping[str, Any]) -> dict[str, Any]:
    """Set keys in local.php (admin_* go), replace parameters_local.php; return what local.php held before."""
    job = {"local": str(LOCAL), "set": local, "remove": ADMIN_PARAMETERS, "provider": provider}
    try:
        rendered = json.loads(output_of(php(RENDER_PARAMETERS, json.dumps(job)), "read config/local.php"))
    except ValueError:
        raise CtlError("config/local.php does not set $parameters as Mautic's does") from None
    write(LOCAL, rendered["local"], 0o640, "www-data", "www-data")
    write(PROVIDER, rendered["provider"], 0o640, group="www-data")
    # Compiled copies are told apart by the second; two writes within one would pass for the same.
    for compiled in Path("/var/cache/php-opcache").glob(f"*{MAUTIC}/config/*.bin"):
        compiled.unlink(missing_ok=True)
    before: dict[str, Any] = rendered["before"]
    return before


def mautic_version() -> str:
    """Return the version that the files say; raises CtlError when there is no Mautic."""
    found = read_json(MAUTIC / "app/release_metadata.json").get("version")
    if not found:
        raise CtlError(f"there is no Mautic in {MAUTIC}")
    return str(found)


def login_page(domain: str) -> tuple[int, bool, float]:
    """Ask for the login page by the inside socket; return (status, it is a login page, seconds)."""
    began = time.monotonic()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(INSIDE_SOCKET))
        connection.sendall(
            f"GET /s/login HTTP/1.0\r\nHost: {domain}\r\nUser-Agent: mautic-ctl\r\n"
            "X-Forwarded-Proto: https\r\n\r\n".encode()
        )
        answer = b""
        while part := connection.recv(65536):
            answer += part
    status = re.match(rb"HTTP/1\.\d (\d+)", answer)
    return int(status[1]) if status else 0, b'name="_username"' in answer, time.monotonic() - began


# --- install -------------------------------------------------------------------------------------------------------


def install(request: Mapping[str, Any]) -> dict[str, Any]:
    """Install Mautic once, to be a blueprint; does nothing when that is done."""
    (site_url,) = asked(request, "site_url")
    version = mautic_version()
    systemctl("start", "mariadb", "php8.2-fpm", "nginx")
    await_database()
    tables = {row[0] for row in sql("SELECT table_name FROM information_schema.tables WHERE table_schema='mautic';")}
    if tables:
        # The installer would drop them, whatever its options say.
        if BASELINE.exists() and _is_installed():
            return {"version": version, "already": True}
        raise CtlError(
            "the database `mautic` has tables already, and installing would drop them; start from a new container"
        )
    for folder in FOLDERS:
        (MAUTIC / folder).mkdir(parents=True, exist_ok=True)
    for folder in WRITABLE:
        ended = run("chown", "-R", "www-data:www-data", str(MAUTIC / folder), timeout=300)
        if ended.returncode:
            raise CtlError(f"{MAUTIC / folder} could not be given to www-data")
    (MAUTIC / "config").chmod(0o750)
    empty(MAUTIC / "var/cache")
    database_password = os.urandom(24).hex()
    sql(
        "CREATE DATABASE IF NOT EXISTS mautic CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;"
        f"CREATE OR REPLACE USER 'mautic'@'localhost' IDENTIFIED BY {sql_text(database_password)};"
        "GRANT ALL PRIVILEGES ON mautic.* TO 'mautic'@'localhost';"
    )
    # The secrets go by the file, not by argv. site_url must not be in it: Mautic would count as installed.
    before = {
        "db_driver": "pdo_mysql", "db_host": "localhost", "db_port": 3306, "db_table_prefix": "", "db_name": "mautic",
        "db_user": "mautic", "db_password": database_password, "admin_firstname": "Admin", "admin_lastname": "Mautic",
        "admin_username": "admin", "admin_email": "admin@blueprint.invalid", "admin_password": os.urandom(24).hex(),
    }  # fmt: skip
    rendered = json.loads(
        output_of(
            php(RENDER_PARAMETERS, json.dumps({"local": "", "set": before, "remove": [], "provider": {}})), "render"
        )
    )
    write(LOCAL, rendered["local"], 0o640, "www-data", "www-data")
    PROVIDER.unlink(missing_ok=True)
    ended = console("mautic:install", site_url, "--force")
    if "Install complete" not in ended.stdout or not _is_installed():
        LOCAL.unlink()  # It holds the admin's password.
        said = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
        raise CtlError(f"mautic:install did not finish (exit code {ended.returncode}): {' / '.join(said[-4:])}")
    # The installer leaves `temp` or a guess of its own; it is replaced again in each clone.
    write_parameters({"secret_key": os.urandom(32).hex()}, PROVIDER_PARAMETERS)
    for words in (["cache:clear"], ["mautic:plugins:reload"], ["messenger:setup-transports"]):
        ended = console(*words)
        if ended.returncode:
            raise CtlError(f"{words[0]} failed: {' / '.join((ended.stdout + ended.stderr).split(chr(10))[-4:])}")
    if not sql("SHOW TABLES LIKE 'messenger_messages';", "mautic"):
        raise CtlError("messenger:setup-transports made no table messenger_messages")
    _record_migrations()
    systemctl("reload", "php8.2-fpm", "nginx")
    status, is_login, _ = login_page(site_url.split("//")[-1].split("/")[0])
    if not is_login:
        raise CtlError(f"after the installation the login page answers {status}")
    return {"version": version, "already": False}


def _is_installed() -> bool:
    """By what the installer leaves: both keys in local.php, and the admin's row. Its exit code says nothing."""
    job = {"local": str(LOCAL), "set": {}, "remove": [], "provider": {}}
    before = json.loads(output_of(php(RENDER_PARAMETERS, json.dumps(job)), "read config/local.php"))["before"]
    if not before.get("db_driver") or not before.get("site_url"):
        return False
    return sql("SELECT COUNT(*) FROM users WHERE id = 1;", "mautic") == [["1"]]


def migration_figures(status: str) -> dict[str, int]:
    """Return {executed, available, new} from the table that doctrine:migrations:status prints."""
    found = re.findall(r"\|\s*(Executed|Available|New)\s*\|\s*(\d+)\s*\|", status)
    return {name.lower(): int(number) for name, number in found}


def _record_migrations() -> None:
    """Write down which migrations a fresh install leaves: some are always pending, so only a change means anything."""
    STATE.mkdir(parents=True, exist_ok=True)
    figures = migration_figures(console("doctrine:migrations:status").stdout)
    write(BASELINE, json.dumps({"version": mautic_version(), **figures}))


# --- seal ----------------------------------------------------------------------------------------------------------


def seal(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Close to the outside, take every identity away, stop all services."""
    mautic_version()
    SEAL.touch()
    systemctl("stop", "cron", "mautic-worker@*")
    systemctl("start", "mariadb")
    await_database()
    # No password has this hash.
    sql(
        _in_one_transaction(FORGET + "UPDATE users SET password = '*', last_login = NULL, last_active = NULL;"),
        "mautic",
    )
    systemctl("stop", "nginx", "php8.2-fpm", "mariadb.socket", "mariadb")
    _forget_files()
    for log in Path("/var/log").rglob("*"):
        if log.is_file() and not log.is_symlink():
            os.truncate(log, 0)
    for key in Path("/etc/ssh").glob("ssh_host_*"):
        key.unlink()
    IDENTITY.unlink(missing_ok=True)
    Path("/var/lib/systemd/random-seed").unlink(missing_ok=True)
    EDGE.write_text(edge_conf(""))
    for link in WANTS.glob("mautic-worker@*.service"):
        link.unlink()
    # Empty, not absent: systemd then makes one at boot, without taking the boot for a first installation.
    os.truncate("/etc/machine-id", 0)
    bus = Path("/var/lib/dbus/machine-id")
    if bus.exists() and not bus.is_symlink():
        bus.unlink()
        bus.symlink_to("/etc/machine-id")
    return {"version": mautic_version()}


def _in_one_transaction(statements: str) -> str:
    """Return SQL that executes statements with one commit; a table that is not there is passed over."""
    return (
        "DELIMITER //\nBEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR 1146 BEGIN END; SET FOREIGN_KEY_CHECKS = 0; "
        f"START TRANSACTION; {statements} COMMIT; SET FOREIGN_KEY_CHECKS = 1; END//\nDELIMITER ;\n"
    )


def _forget_files() -> None:
    """Delete locks (stale by now, and believed by Mautic), temporary files, logs, sessions, heartbeats."""
    for folder in (
        *(MAUTIC / f"var/{name}" for name in ("cache/run", "tmp", "logs")),
        Path("/var/lib/php/sessions"),
        BEATS,
    ):
        empty(folder)
    (MAUTIC / "var/cache/prod/lastUpdateCheck.txt").unlink(missing_ok=True)


# --- identity ------------------------------------------------------------------------------------------------------


def edge_conf(address: str) -> str:
    """Return nginx's edge.conf: whom it believes what was forwarded. Inside, the socket reads as 255.255.255.255."""
    believed = f"    {address} 1;\n" if address else ""
    real_ip = f"set_real_ip_from {address};\nreal_ip_header X-Forwarded-For;\n" if address else ""
    return f"geo $realip_remote_addr $from_edge {{\n    default 0;\n    255.255.255.255 1;\n{believed}}}\n{real_ip}"


def identity(request: Mapping[str, Any]) -> dict[str, Any]:
    """Give a clone an identity and open it. Again with the same request it changes nothing that can be seen.

    What a clone must not inherit is deleted while it is sealed (or when it was a tenant of another name), never in a
    tenant that is in use.
    """
    began = time.monotonic()
    hostname, domain, site_url, admin, db_password, secret_key, pool, children, workers = asked(
        request, "hostname", "domain", "site_url", "admin", "db_password", "secret_key", "innodb_buffer_pool",
        "fpm_children", "email_workers",
    )  # fmt: skip
    username, email, password = asked(admin, "username", "email", "password")
    edge_address = request.get("edge_address") or ""
    if len(password) < 20:
        raise CtlError("the admin's password has fewer than 20 characters, and Mautic might refuse it at login")
    if not re.fullmatch(r"[0-9a-f]{64}", secret_key):
        raise CtlError("`secret_key` is not 64 hexadecimal digits")
    if not re.fullmatch(r"[a-z0-9.-]+", domain) or not re.fullmatch(r"[a-z0-9-]+", hostname):
        raise CtlError("`domain` or `hostname` is not one")
    if not re.fullmatch(r"[0-9a-f.:]*", edge_address):
        raise CtlError("`edge_address` is not an address")
    mautic_version()
    pool_bytes = bytes_of(pool)

    hashing = php(BCRYPT, password)  # The longest part; everything else goes on beside it.
    known = read_json(IDENTITY)
    was_another = known.get("hostname", hostname) != hostname
    fresh = SEAL.exists() or was_another
    if was_another:
        SEAL.touch()
    if fresh:
        _forget_files()
    _rename_machine(hostname, domain, new=was_another)
    write(DATABASE_PLAN, f"# Sizes of the tenant's plan.\n[mysqld]\ninnodb_buffer_pool_size = {pool}\n")
    write(PHP_PLAN, f"; Sizes of the tenant's plan.\n[www]\npm.max_children = {int(children)}\n")
    write(EDGE, edge_conf(edge_address))
    provider = PROVIDER_PARAMETERS | {"trusted_hosts": [trusted_host(domain)]}
    if edge_address:
        provider["trusted_proxies"] = [edge_address]
    before = write_parameters({"db_password": db_password, "secret_key": secret_key, "site_url": site_url}, provider)
    reloading = subprocess.Popen(["systemctl", "reload-or-restart", "php8.2-fpm", "nginx"], stderr=subprocess.DEVNULL)

    await_database()
    hashed = output_of(hashing, "hash the password")
    names = {
        "username": username, "email": email, "first_name": admin.get("first_name", "Admin"),
        "last_name": admin.get("last_name", "Mautic"), "password": hashed,
    }  # fmt: skip
    values = ", ".join(f"{column} = {sql_text(value)}" for column, value in names.items())
    forget_visits = ", last_login = NULL, last_active = NULL" if fresh else ""
    update = f"UPDATE users SET {values}{forget_visits} WHERE id = 1;"
    rows = sql(
        f"ALTER USER 'mautic'@'localhost' IDENTIFIED BY {sql_text(db_password)};\n"
        f"SET GLOBAL innodb_buffer_pool_size = {pool_bytes};\n"
        + _in_one_transaction((FORGET if fresh else "") + update)
        + f"SELECT COUNT(*) FROM users WHERE id = 1 AND username = {sql_text(username)};\n",
        "mautic",
    )
    if rows != [["1"]]:
        raise CtlError("Mautic's first user is not there; was the blueprint installed whole?")
    if reloading.wait(timeout=60):
        raise CtlError("php8.2-fpm and nginx could not be reloaded")
    if str(before.get("site_url", "")).split(":")[0] != site_url.split(":")[0]:
        # Whether cookies are secure is compiled in.
        ended = console("cache:clear")
        if ended.returncode:
            raise CtlError(f"cache:clear failed with {ended.returncode} after the change of scheme")
        systemctl("reload", "php8.2-fpm")
    since = known.get("since") if not fresh else None
    write(IDENTITY, json.dumps({"hostname": hostname, "domain": domain, "since": since or int(time.time())}))
    SEAL.unlink(missing_ok=True)
    _set_workers(int(workers))
    return {"fresh": fresh, "seconds": round(time.monotonic() - began, 3)}


def _rename_machine(hostname: str, domain: str, *, new: bool) -> None:
    """Set the host's name, mail name, machine-id (kept unless it is another's) and SSH's keys (where SSH is)."""
    socket.sethostname(hostname)
    write(Path("/etc/hostname"), f"{hostname}\n")
    write(Path("/etc/mailname"), f"{domain}\n")
    write(Path("/etc/hosts"), f"127.0.0.1 localhost\n127.0.1.1 {domain} {hostname}\n::1 localhost ip6-localhost\n")
    machine_id = Path("/etc/machine-id")
    if new or not re.fullmatch(r"[0-9a-f]{32}\n?", machine_id.read_text() if machine_id.exists() else ""):
        # In place: systemd may have mounted something over it.
        machine_id.write_text(os.urandom(16).hex() + "\n")
    if Path("/usr/sbin/sshd").exists():
        keys = list(Path("/etc/ssh").glob("ssh_host_*"))
        if new:
            for key in keys:
                key.unlink()
        if new or not keys:
            run("ssh-keygen", "-A")
            run("systemctl", "try-restart", "ssh")


def _set_workers(count: int) -> None:
    """Have `count` workers of the queue `email` now and after each boot, named email, email-2, …"""
    wanted = {f"mautic-worker@email{'' if number == 1 else f'-{number}'}.service" for number in range(1, count + 1)}
    WANTS.mkdir(exist_ok=True)
    there = {link.name for link in WANTS.glob("mautic-worker@*.service")}
    for name in wanted - there:
        (WANTS / name).symlink_to(WORKER_UNIT)
    for name in there - wanted:
        (WANTS / name).unlink()
    if there - wanted:
        systemctl("stop", "--no-block", *sorted(there - wanted))
    # They take long to start and nobody waits for them.
    systemctl("start", "--no-block", "cron", *sorted(wanted))


# --- health --------------------------------------------------------------------------------------------------------

HEALTH_SQL = """
SELECT 'contacts', COUNT(*), COALESCE(SUM(date_identified IS NOT NULL), 0) FROM leads;
SELECT 'users', COALESCE(UNIX_TIMESTAMP(MAX(last_login)), 0), COALESCE(UNIX_TIMESTAMP(MAX(last_active)), 0) FROM users;
SELECT 'stale_segments', COUNT(*) FROM lead_lists WHERE is_published = 1
  AND COALESCE(last_built_date, date_added) < UTC_TIMESTAMP() - INTERVAL 2 HOUR;
SELECT 'overdue_events', COUNT(*) FROM campaign_lead_event_log l JOIN campaigns c ON c.id = l.campaign_id
  WHERE l.is_scheduled = 1 AND c.is_published = 1 AND l.trigger_date < UTC_TIMESTAMP() - INTERVAL 1 HOUR;
SELECT 'failed_events', COUNT(*) FROM campaign_lead_event_failed_log
  WHERE date_added > UTC_TIMESTAMP() - INTERVAL 1 DAY;
SELECT 'queue', queue_name, COUNT(*), GREATEST(0, TIMESTAMPDIFF(SECOND, MIN(available_at), UTC_TIMESTAMP()))
  FROM messenger_messages WHERE delivered_at IS NULL GROUP BY queue_name;
SELECT 'message_queue', COUNT(*) FROM message_queue WHERE status IN ('pending', 'rescheduled')
  AND scheduled_date < UTC_TIMESTAMP() - INTERVAL 1 HOUR;
SELECT 'webhook_queue', COUNT(*) FROM webhook_queue WHERE date_added < UTC_TIMESTAMP() - INTERVAL 1 HOUR;
SELECT 'stuck_imports', COUNT(*) FROM imports WHERE status = 2 AND date_modified < UTC_TIMESTAMP() - INTERVAL 2 HOUR;
SELECT 'late_reports', COUNT(*) FROM reports_schedulers WHERE schedule_date < UTC_TIMESTAMP() - INTERVAL 1 HOUR;
SELECT 'emails_day', COUNT(*), COALESCE(SUM(is_failed), 0) FROM email_stats
  WHERE date_sent > UTC_TIMESTAMP() - INTERVAL 1 DAY;
SELECT 'migrations', COUNT(*) FROM migrations;
"""
UNCONFIGURED = frozenset(
    ["mautic:email:fetch", "mautic:iplookup:download", "mautic:donotsell:download", "mautic:max-mind:purge"]
)
"""Jobs that fail where a client has not set up what they are for: never late."""

LOG_ERRORS = 20
"""Errors in a day that are no sign of trouble: each console command that ends with 1 leaves one."""

QUEUE_LATE = 3600
"""Seconds after which a due message in a queue means that its worker does not work."""


def health(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Look at everything that Mautic itself never reports: services, crons, queues, logs, space."""
    checks: dict[str, dict[str, Any]] = {}

    def check(name: str, ok: bool, text: str) -> None:
        checks[name] = {"ok": ok, "text": text}

    known = read_json(IDENTITY)
    version = mautic_version()
    facts: dict[str, Any] = {"version": version, "double": "double" in version, "sealed": SEAL.exists()}
    check("open", not SEAL.exists(), "closed to the outside" if SEAL.exists() else "open")

    facts["services"] = states = _unit_states()
    # A worker ends each hour and waits for its restart; one that cannot start shows in the age of its queue.
    down = [
        f"{name} is {state}"
        for name, state in states.items()
        if state != "active" and not (state == "activating" and name.startswith("mautic-worker@"))
    ]
    check("services", not down, ", ".join(down) or f"{len(states)} active")
    try:
        status, is_login, seconds = login_page(known.get("domain", "localhost"))
        check("login page", is_login, f"{status} in {seconds:.2f} s")
    except OSError as error:
        check("login page", False, f"nginx does not answer ({error.strerror})")

    rows: dict[str, list[list[str]]] = {}
    for label, *values in sql(HEALTH_SQL, "mautic", force=True):
        rows.setdefault(label, []).append(values)
    check("database", "contacts" in rows, "answers" if "contacts" in rows else "does not answer")
    if "contacts" in rows:
        (facts["contacts"], facts["identified"]) = map(int, rows["contacts"][0])
        (facts["last_login"], facts["last_active"]) = map(int, rows["users"][0])
        (facts["emails_day"], facts["emails_failed_day"]) = map(int, rows["emails_day"][0])
        late = ("stale_segments", "overdue_events", "message_queue", "webhook_queue", "stuck_imports", "late_reports")
        for name in (*late, "failed_events"):
            facts[name] = int(rows[name][0][0])
        waiting = [f"{facts[name]} {name.replace('_', ' ')}" for name in late if facts[name]]
        check("work", not waiting, ", ".join(waiting) or "nothing overdue")
        facts["queues"] = queues = {name: {"due": int(n), "age": int(age)} for name, n, age in rows.get("queue", [])}
        bad = [f"{queue['due']} in {name}, the oldest {queue['age']} s" for name, queue in queues.items()
               if name == "failed" or queue["age"] > QUEUE_LATE]  # fmt: skip
        check("queues", not bad, "; ".join(bad) or f"{sum(queue['due'] for queue in queues.values())} waiting")

    since = float(known.get("since", time.time()))
    facts["crons"] = crons = cron_states(
        cron_periods(CRONTAB.read_text()),
        {path.stem: read_json(path) for path in BEATS.glob("*.json")},
        since,
        time.time(),
    )
    late_jobs = [f"{name} ({cron['why']})" for name, cron in crons.items() if cron["late"]]
    check("crons", not late_jobs, ", ".join(late_jobs) or f"{len(crons)} on time")

    facts["log_errors_day"] = errors = _log_errors()
    check("log", errors <= LOG_ERRORS, f"{errors} errors in a day")
    space = os.statvfs(MAUTIC)
    facts["disk"] = {"total": space.f_blocks * space.f_frsize, "free": space.f_bavail * space.f_frsize}
    free = space.f_bavail / max(space.f_blocks, 1)
    check("disk", free > 0.1, f"{free:.0%} free")
    facts["memory"] = _memory()
    facts["migrations_baseline"] = read_json(BASELINE)
    facts["migrations_executed"] = int(rows["migrations"][0][0]) if "migrations" in rows else 0
    return {"healthy": all(item["ok"] for item in checks.values()), "checks": checks, "facts": facts}


def _unit_states() -> dict[str, str]:
    units = [*SERVICES, *sorted(link.name.removesuffix(".service") for link in WANTS.glob("mautic-worker@*.service"))]
    return dict(zip(units, run("systemctl", "is-active", *units).stdout.split(), strict=False))


def cron_periods(crontab: str) -> dict[str, int]:
    """Return {command: seconds between its runs} from the lines of a crontab that call mautic-cron."""
    periods = {}
    for line in crontab.splitlines():
        match = re.match(r"([\d*]\S*)\s+(\S+)\s+\S+\s+\S+\s+(\S+)\s+www-data\s+mautic-cron\s+\d+\s+\d+\s+(\S+)", line)
        if match:
            minute, hour, weekday, command = match.groups()
            if weekday != "*":
                period = 7 * 86400
            elif hour != "*":
                period = 86400
            else:
                step = re.fullmatch(r"\*(?:/(\d+))?", minute)
                period = 60 * int(step[1] or 1) if step else 3600 // len(minute.split(","))
            periods[command] = period
    return periods


def cron_states(
    periods: Mapping[str, int], beats: Mapping[str, Mapping[str, Any]], since: float, now: float
) -> dict[str, dict[str, Any]]:
    """Return {command: {last_success, rc, late, why}}: late when no success came within two periods and a quarter.

    `beats` are the heartbeats by command (`:` as `_`), `since` is when the tenant began; times in epoch seconds.
    """
    states = {}
    for command, period in periods.items():
        beat = beats.get(command.replace(":", "_"), {})
        last = beat.get("last_success")
        late = command not in UNCONFIGURED and now - (last or since) > 2 * period + 900
        if not beat:
            why = "never ran"
        elif beat.get("skipped"):
            why = f"skipped: {beat['skipped']}"
        else:
            why = f"exit code {beat.get('rc')}"
        states[command] = {"last_success": last, "rc": beat.get("rc"), "late": late, "why": why}
    return states


def count_errors(lines: Iterable[str], since: str) -> int:
    """Count log lines of level ERROR or worse that are not older than `since` (ISO time, UTC)."""
    pattern = re.compile(r"\[([^]]+)\] \w+\.(ERROR|CRITICAL|ALERT|EMERGENCY):")
    return sum(1 for line in lines if (match := pattern.match(line)) and match[1] >= since)


def _log_errors() -> int:
    """Errors of the last day; of a long log its last 4 MB."""
    now = datetime.now(UTC)
    total = 0
    for day in (now - timedelta(days=1), now):
        path = MAUTIC / f"var/logs/mautic_prod-{day:%Y-%m-%d}.php"
        if path.exists():
            with path.open("rb") as log:
                log.seek(max(0, path.stat().st_size - (4 << 20)))
                lines = log.read().decode(errors="replace").splitlines()
            total += count_errors(lines, (now - timedelta(days=1)).isoformat())
    return total


def _memory() -> int:
    """Bytes in use by the container, by its own control group where that can be seen."""
    for path in ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes"):
        if Path(path).exists():
            return int(Path(path).read_text())
    return 0


def version(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Say which Mautic this is, from its files."""
    found = mautic_version()
    return {"version": found, "double": "double" in found}


# --- the door ------------------------------------------------------------------------------------------------------

VERBS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "install": install,
    "seal": seal,
    "identity": identity,
    "health": health,
    "version": version,
}


def main(argv: list[str]) -> int:
    """Run one verb; 0 when it did what was asked, 1 when the answer says why not, 2 when called wrongly."""
    if len(argv) != 4 or argv[1] not in VERBS:
        print(f"usage: mautic-ctl {'|'.join(VERBS)} REQUEST_FILE RESULT_FILE", file=sys.stderr)
        return 2
    verb, request_file, result_file = argv[1], Path(argv[2]), Path(argv[3])
    os.umask(0o022)
    answer: dict[str, Any]
    try:
        text = request_file.read_text()
        request_file.unlink()
        request = json.loads(text)
        with LOCK.open("w") as lock:
            if verb not in ("health", "version"):
                fcntl.flock(lock, fcntl.LOCK_EX)
            answer = {"ok": True, **VERBS[verb](request)}
    except CtlError as error:
        answer = {"ok": False, "error": str(error)}
    except Exception as error:
        # Only where, not what: the text of an unexpected error may hold a secret.
        place = traceback.extract_tb(error.__traceback__)[-1]
        answer = {
            "ok": False,
            "error": f"mautic-ctl {verb} failed unexpectedly: {type(error).__name__} in {place.name}",
        }
    write(result_file, json.dumps(answer), 0o600)
    return 0 if answer["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
