"""Checks whether tenants run a version of Mautic with known security holes: one incident for all of them."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.fleet import advisories as known
from bot.fleet.releases import releases
from bot.model.diagnosis import Diagnosis, Found, with_remedies
from bot.model.findings import FLEET
from bot.model.labels import Role
from bot.model.plan import Refused
from bot.slack.incidents import Seen

KIND = "advisories"


@schedule(seconds=900, at_start=True)
def advisories(context: Context) -> None:
    """Compare each tenant's version of Mautic with the known security holes.

    That nobody could be seen on a silent server is no recovery. A list of the settings that cannot be used fails the
    job, and what the bot comes with counts all the same.
    """
    wrong = ""
    try:
        known.keep(context.settings)
    except Refused as error:
        wrong = str(error)
    seen = context.fleet.inventory(Role.TENANT)
    holes = known.advisories(context.settings)
    words = known.exposed(holes, seen.tenants)
    cure = known.best_upgrade(holes, releases(context.settings), seen.tenants)
    told = with_remedies(KIND, Found(f"{words}." if cure else words), {"cure": cure})
    found = Diagnosis((told,) if words else (), frozenset([KIND]) if seen.silent or wrong else frozenset())
    with context.database.transaction() as transaction:
        context.incidents.judge(transaction, Seen({}, {FLEET: found}))
    if wrong:
        raise Refused(wrong)
