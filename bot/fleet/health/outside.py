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


@finds("certificate")
def certificate(look: Look, _: HealthSettings) -> Found | None:
    """Find a certificate that is late: they live for hours or months, and are renewed when a third of that is left."""
    if look.page is None:
        return None
    if not look.page.valid_until:
        expired = "certificate has expired" in look.page.answer
        return Found("The certificate has expired, so browsers refuse the site.") if expired else None
    left = look.page.valid_until - look.at
    if left > (look.page.valid_until - look.page.valid_from) / 4:
        return None
    return Found(f"The certificate expires in {seconds(left)} and was not renewed.")
