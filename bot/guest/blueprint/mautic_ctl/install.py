"""`install`: installs Mautic into an empty database, for a blueprint."""

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from . import trees
from .database import start_database
from .migrations import record_all
from .page import await_login_page
from .parameters import LOCAL, PROVIDER, PROVIDER_PARAMETERS, RENDER_PARAMETERS, read_parameters, write_parameters
from .system import (
    FPM,
    MAUTIC,
    STATE,
    CtlError,
    asked,
    console,
    empty,
    mautic_version,
    output_of,
    php,
    run,
    sql,
    sql_text,
    systemctl,
    write,
)
from .trees import FOLDERS, WRITABLE

PATIENCE = 30.0
"""Seconds within which the login page must answer after a reload."""

BASELINE = STATE / "migrations-baseline.json"


def install(request: Mapping[str, Any]) -> dict[str, Any]:
    """Install Mautic for a blueprint; do nothing if it is installed already."""
    (site_url,) = asked(request, "site_url")
    version = mautic_version()
    start_database(beside=[FPM, "nginx"])
    tables = {row[0] for row in sql("SELECT table_name FROM information_schema.tables WHERE table_schema='mautic';")}
    if tables:
        # The installer would drop the tables, whatever its options say.
        if BASELINE.exists() and _is_installed():
            return {"version": version, "already": True}
        raise CtlError(
            "the database `mautic` has tables already, and installing would drop them; start from a new container"
        )
    # Before anything else is written there: the listing later tells which files are not the release's.
    trees.write_listing(trees.LISTING, trees.files_of(MAUTIC))
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
    # Secrets go into the file, not into argv. site_url must not be in it: Mautic would count as installed.
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
    # The installer leaves `temp` or a value of its own as the key; each clone gets another one.
    write_parameters({"secret_key": os.urandom(32).hex()}, PROVIDER_PARAMETERS)
    for words in (["cache:clear"], ["mautic:plugins:reload"], ["messenger:setup-transports"]):
        ended = console(*words)
        if ended.returncode:
            raise CtlError(f"{words[0]} failed: {' / '.join((ended.stdout + ended.stderr).split(chr(10))[-4:])}")
    if not sql("SHOW TABLES LIKE 'messenger_messages';", "mautic"):
        raise CtlError("messenger:setup-transports made no table messenger_messages")
    record_all()
    _write_baseline()
    systemctl("reload", FPM, "nginx")
    # PHP does not answer for a moment while it reloads.
    await_login_page(site_url.split("//")[-1].split("/")[0], PATIENCE)
    return {"version": version, "already": False}


def _is_installed() -> bool:
    """Return whether Mautic is installed: local.php has both keys, and the database has the admin's row.

    The installer's exit code does not tell.
    """
    before = read_parameters()
    if not before.get("db_driver") or not before.get("site_url"):
        return False
    return sql("SELECT COUNT(*) FROM users WHERE id = 1;", "mautic") == [["1"]]


def migration_figures(status: str) -> dict[str, int]:
    """Return {executed, available, new} from the table that doctrine:migrations:status prints."""
    found = re.findall(r"\|\s*(Executed|Available|New)\s*\|\s*(\d+)\s*\|", status)
    return {name.lower(): int(number) for name, number in found}


def _write_baseline() -> None:
    """Write down the figures of Mautic's migrations after the installation; only a change from them means anything."""
    STATE.mkdir(parents=True, exist_ok=True)
    figures = migration_figures(console("doctrine:migrations:status").stdout)
    write(BASELINE, json.dumps({"version": mautic_version(), **figures}))
