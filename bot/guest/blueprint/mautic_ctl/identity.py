# ruff: noqa: S608 - every value in SQL goes through sql_text(), or is a constant
"""`identity`: turns a clone of a blueprint into a tenant."""

import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .database import await_database
from .edge import EDGE, checked_address, edge_conf
from .generalise import FORGET, delete_identity_files, in_one_transaction
from .page import login_page
from .parameters import provider_parameters, write_parameters
from .sizes import bytes_of, first_size, write_sizes
from .slots import take_slot
from .system import (
    CLOSED,
    FPM,
    IDENTITY,
    CtlError,
    asked,
    await_systemd,
    console,
    mautic_version,
    output_of,
    php,
    read_json,
    run,
    sql,
    sql_text,
    systemctl,
    write,
)
from .workers import set_workers

BCRYPT = 'echo password_hash(rtrim(stream_get_contents(STDIN), "\\n"), PASSWORD_BCRYPT, ["cost" => 10]);'
"""PHP code that hashes a password, at PHP's default cost: a higher cost protects passwords that people choose, but this
one is random, and somebody waits for the hash."""


def identity(request: Mapping[str, Any]) -> dict[str, Any]:
    """Give a clone its identity and open it; a repeated request changes nothing visible.

    Data that a clone must not inherit is deleted only while the container is closed, or if it was a tenant of another
    name; never in a tenant that is in use. Returns `fresh` (whether that data was deleted) and `seconds`. Raises
    CtlError for invalid values, and when the database or a service refuses.
    """
    began = time.monotonic()
    hostname, domain, site_url, admin, db_password, secret_key, pool, children, workers = asked(
        request, "hostname", "domain", "site_url", "admin", "db_password", "secret_key", "innodb_buffer_pool",
        "fpm_children", "email_workers",
    )  # fmt: skip
    username, email, password = asked(admin, "username", "email", "password")
    edge_address = checked_address(request.get("edge_address") or "")
    if len(password) < 20:
        raise CtlError("the admin's password has fewer than 20 characters, and Mautic might refuse it at login")
    if not re.fullmatch(r"[0-9a-f]{64}", secret_key):
        raise CtlError("`secret_key` is not 64 hexadecimal digits")
    if not re.fullmatch(r"[a-z0-9.-]+", domain) or not re.fullmatch(r"[a-z0-9-]+", hostname):
        raise CtlError("`domain` or `hostname` is not one")
    mautic_version()
    pool_bytes = bytes_of(pool)

    known = read_json(IDENTITY)
    was_another = known.get("hostname", hostname) != hostname
    fresh = CLOSED.exists() or was_another
    if was_another:
        CLOSED.touch()
    if fresh:
        delete_identity_files()
    rename_machine(hostname, domain, new=was_another)
    write_sizes(pool, int(children))
    take_slot(request)
    write(EDGE, edge_conf(edge_address))
    provider = provider_parameters(domain, edge_address)
    local = {"db_password": db_password, "secret_key": secret_key, "site_url": site_url}
    if fresh:
        local |= sender(admin, domain)
    before = write_parameters(local, provider)
    # Hashing takes long, and only the database needs the hash: it runs beside the rest, after the files are written,
    # so that they may be in place before PHP-FPM starts.
    hashing = php(BCRYPT, password)
    # The container has just been started: services that have not started yet will read the files written above, and
    # this waits for their start.
    await_systemd()
    reload = ["systemctl", "reload-or-restart", FPM, "nginx"]
    reloading = subprocess.Popen(reload, stderr=subprocess.PIPE, text=True)

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
        f"SET GLOBAL innodb_buffer_pool_size = {first_size(pool_bytes)};\n"
        + in_one_transaction((FORGET if fresh else "") + update)
        + f"SELECT COUNT(*) FROM users WHERE id = 1 AND username = {sql_text(username)};\n",
        "mautic",
    )
    if rows != [["1"]]:
        raise CtlError("Mautic's first user is not there; was the blueprint installed whole?")
    _, problem = reloading.communicate(timeout=60)
    if reloading.returncode:
        raise CtlError(f"{FPM} and nginx could not be reloaded: {(problem.splitlines() or [''])[0]}")
    if str(before.get("site_url", "")).split(":")[0] != site_url.split(":")[0]:
        # Whether cookies are secure is part of the compiled cache.
        ended = console("cache:clear")
        if ended.returncode:
            raise CtlError(f"cache:clear failed with {ended.returncode} after the change of scheme")
        systemctl("reload", FPM)
    since = known.get("since") if not fresh else None
    write(IDENTITY, json.dumps({"hostname": hostname, "domain": domain, "since": since or int(time.time())}))
    CLOSED.unlink(missing_ok=True)
    # The first page after a boot takes PHP longest: request it beside the rest, and ignore the result.
    threading.Thread(target=_warm, args=(domain,)).start()
    set_workers(int(workers))
    return {"fresh": fresh, "seconds": round(time.monotonic() - began, 3)}


def sender(admin: Mapping[str, Any], domain: str) -> dict[str, str]:
    """Return the sender parameters of a new tenant's mail, until its users set others.

    Mautic's own default names a stranger's domain. An admin without a name gets the tenant's domain as a name.
    """
    name = " ".join(filter(None, (admin.get("first_name"), admin.get("last_name"))))
    return {"mailer_from_email": admin["email"], "mailer_from_name": name or domain}


def _warm(domain: str) -> None:
    with suppress(OSError):
        login_page(domain)


def rename_machine(hostname: str, domain: str, *, new: bool) -> None:
    """Set the host name, mail name, machine-id and SSH host keys (if sshd is installed).

    With `new`, machine-id and keys are replaced; otherwise they are created only if they are missing or invalid.
    """
    socket.sethostname(hostname)
    write(Path("/etc/hostname"), f"{hostname}\n")
    write(Path("/etc/mailname"), f"{domain}\n")
    write(Path("/etc/hosts"), f"127.0.0.1 localhost\n127.0.1.1 {domain} {hostname}\n::1 localhost ip6-localhost\n")
    machine_id = Path("/etc/machine-id")
    if new or not re.fullmatch(r"[0-9a-f]{32}\n?", machine_id.read_text() if machine_id.exists() else ""):
        # Write in place: systemd may have mounted something over this file.
        machine_id.write_text(os.urandom(16).hex() + "\n")
    if Path("/usr/sbin/sshd").exists():
        keys = list(Path("/etc/ssh").glob("ssh_host_*"))
        if new:
            for key in keys:
                key.unlink()
        if new or not keys:
            run("ssh-keygen", "-A")
            run("systemctl", "try-restart", "ssh")
