"""The reason of a failed upgrade inside a tenant, picked from all that Mautic's console prints."""

from __future__ import annotations

from typing import Any

import pytest

from bot.guest.upgrades import problem

USAGE = "doctrine:migrations:migrate [--write-sql [WRITE-SQL]] [--dry-run] [--em EM] [--] [<version>]"
THROWN = f"""
[notice] Migrating up to Mautic\\Migrations\\Version20250915
[error] Migration Mautic\\Migrations\\Version20250801 failed during Execution. Error: "An exception occurred: no column"

In ExceptionConverter.php line 114:

  An exception occurred: no column

In Statement.php line 98:

  SQLSTATE[42S22]: Column not found

{USAGE}
"""


def done(**more: Any) -> dict[str, Any]:
    return {"migrated": {"done": True, "output": ""}, "up_to_date": True, "assets": {}} | more


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (THROWN, "An exception occurred: no column"),
        (f"\n  There is no such table  \n\n{USAGE}\n\n", "There is no such table"),
        ("[notice] Migrating\nIt did not end within 5 seconds and was stopped.", "It did not end within 5 seconds"),
        (USAGE, "Mautic said nothing"),
        ("", "Mautic said nothing"),
    ],
)
def test_the_reason_of_failed_migrations_is_the_error_and_not_the_usage_of_the_command(output: str, told: str) -> None:
    said = problem(done(migrated={"done": False, "output": output}))
    assert said.startswith(f"The migrations failed: {told}")
    assert "--dry-run" not in said


@pytest.mark.parametrize(("status", "broken"), [(200, False), (302, False), (404, True), (500, True), (0, True)])
def test_all_files_that_the_login_page_links_to_have_to_answer(status: int, broken: bool) -> None:
    """0 is no answer at all: Mautic may wait for ever for a file that it has to create."""
    assert bool(problem(done(assets={"/app.css": {"status": status}}))) == broken
