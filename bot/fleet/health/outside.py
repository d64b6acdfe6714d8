"""Finds problems that show through the edge: the login page and its certificate."""

from __future__ import annotations

from bot.fleet.health.look import Look, finds
from bot.model.diagnosis import Found
from bot.model.text import seconds
from bot.settings import HealthSettings


@finds("page")
def page(look: Look, _: HealthSettings) -> Found | None:
    """Find that the login page is not there."""
    if look.page is None or look.page.login:
        return None
    return Found(f"The login page does not load: {look.page.answer}.")


SLOW = 0.5
"""Seconds that a page may take, however fast it was before an upgrade."""
NEW_ERRORS = 5
"""Additional errors in a day's log that may be chance, compared with the day before an upgrade."""


@finds("upgraded")
def upgraded(look: Look, _: HealthSettings) -> Found | None:
    """Find that a tenant is slower, or logs more errors, since its upgrade or patch than on the day before."""
    before = look.before
    if before is None or look.page is None or not look.page.login:
        return None
    if before.page is not None and look.page.seconds > max(SLOW, 2 * before.page):
        return Found(
            f"The login page takes {seconds(look.page.seconds)}, and took {seconds(before.page)} with Mautic "
            f"{before.version}."
        )
    errors = look.facts.get("log_errors_day")
    if errors is not None and before.log_errors is not None and errors > before.log_errors + NEW_ERRORS:
        return Found(
            f"Mautic's log has {errors} errors of the last day; with {before.version} it had {before.log_errors}."
        )
    return None


@finds("certificate")
def certificate(look: Look, _: HealthSettings) -> Found | None:
    """Find a certificate whose renewal is late: less than a quarter of its lifetime is left.

    Certificates are valid for hours or months, and are renewed when a third of that is left.
    """
    if look.page is None:
        return None
    if not look.page.valid_until:
        expired = "certificate has expired" in look.page.answer
        return Found("The certificate has expired, so browsers refuse the site.") if expired else None
    if not look.certificate_late:
        return None
    return Found(f"The certificate expires in {seconds(look.page.valid_until - look.at)} and was not renewed.")
