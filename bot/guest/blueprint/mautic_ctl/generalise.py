# ruff: noqa: S608 - every value in SQL goes through sql_text(), or is a constant
"""`generalise`: turns an installed Mautic into a blueprint."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .database import start_database
from .edge import EDGE, edge_conf
from .system import BEATS, CLOSED, FPM, IDENTITY, MAUTIC, empty, mautic_version, sql, systemctl
from .workers import WANTS

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
"""Tables whose rows a clone must not inherit: they name other people, give access, or would be sent twice."""

FORGET = "".join(f"DELETE FROM {table}; " for table in IDENTITY_TABLES)


def generalise(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Close the container to the outside, delete every trace of an identity, and stop all services."""
    mautic_version()
    CLOSED.touch()
    systemctl("stop", "cron", "mautic-worker@*")
    start_database()
    # No password has this hash.
    sql(
        in_one_transaction(FORGET + "UPDATE users SET password = '*', last_login = NULL, last_active = NULL;"),
        "mautic",
    )
    systemctl("stop", "nginx", FPM, "mariadb.socket", "mariadb")
    delete_identity_files()
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
    # Empty, not absent: systemd then generates an id at boot, without treating the boot as a first installation.
    os.truncate("/etc/machine-id", 0)
    bus = Path("/var/lib/dbus/machine-id")
    if bus.exists() and not bus.is_symlink():
        bus.unlink()
        bus.symlink_to("/etc/machine-id")
    return {"version": mautic_version()}


def in_one_transaction(statements: str) -> str:
    """Return SQL that executes statements with one commit and skips those whose table does not exist."""
    return (
        "DELIMITER //\nBEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR 1146 BEGIN END; SET FOREIGN_KEY_CHECKS = 0; "
        f"START TRANSACTION; {statements} COMMIT; SET FOREIGN_KEY_CHECKS = 1; END//\nDELIMITER ;\n"
    )


def delete_identity_files() -> None:
    """Delete locks (stale, but Mautic would respect them), temporary files, logs, sessions and heartbeats."""
    for folder in (
        *(MAUTIC / f"var/{name}" for name in ("cache/run", "tmp", "logs")),
        Path("/var/lib/php/sessions"),
        BEATS,
    ):
        empty(folder)
    (MAUTIC / "var/cache/prod/lastUpdateCheck.txt").unlink(missing_ok=True)
