"""What each of Mautic's jobs has to do: the one table that says when PHP is started for it.

A rule may say yes where Mautic then finds nothing; it must never say no where Mautic would find something. So each is
Mautic's own condition (paths below app/bundles/, read of 5.0 to 7), or one that holds more. A job that is not here runs
each time. What plugins do in jobs is looked for where they can: see `broadcast_plugins`.
"""

import os
import re
from collections.abc import Callable

from ..mautic_ctl import due

MAJORS = range(5, 8)
"""Mautic's major versions that the rules were read of; of any other nothing is known, and jobs run."""


class Rule:
    """When a job has something to do.

    `rows`: a query that gives a row then. `set_up`: whether Mautic's configuration (the text of its files) has set the
    job up at all; None: it needs none. `plugins`: whether plugins may have work for it that stands in none of its rows.
    `otherwise`: parameters of that configuration, and the query instead of `rows` where it names any of them.
    """

    __slots__ = ("otherwise", "plugins", "rows", "set_up")

    def __init__(
        self,
        rows: str = "",
        set_up: Callable[[str], bool] | None = None,
        *,
        plugins: bool = False,
        otherwise: tuple[tuple[str, ...], str] = ((), ""),
    ) -> None:
        self.rows = rows
        self.set_up = set_up
        self.plugins = plugins
        self.otherwise = otherwise

    def rows_by(self, config: str) -> str:
        """Return the query for a configuration."""
        parameters, rows = self.otherwise
        return rows if any(name in config for name in parameters) else self.rows


def _any(source: str) -> str:
    return f"SELECT 1 FROM {source} LIMIT 1"  # noqa: S608 - made of constants


def queues_webhooks(config: str) -> bool:
    """Whether webhooks wait for their job; by default they are sent at once, and it looks at nothing.

    A value that is no plain text may be anything.
    """
    told = re.findall(r"""['"]queue_mode['"]\s*=>\s*(['"]\w*['"])?""", config)
    return any(value in ("", "'command_process'", '"command_process"') for value in told)


def monitors_inbox(config: str) -> bool:
    """Whether an inbox is set up; of all of Mautic's parameters only an inbox's has the name `host` as it is."""
    told = re.findall(r"""['"]host['"]\s*=>\s*(''|""|null|NULL)?""", config)
    return any(value == "" for value in told)


_CAMPAIGNS = _any(f"campaigns c WHERE {due.published('c')}")
RULES = {
    # LeadBundle/Command/UpdateLeadListsCommand: each published segment, whatever happened since. A contact may come or
    # go by any change of any contact, or by the time alone, so nothing less will do.
    "mautic:segments:update": Rule(_any(f"lead_lists WHERE {due.SEGMENTS}")),
    # CampaignBundle/Command/UpdateLeadCampaignsCommand: each campaign for which FormEntity::isPublished().
    "mautic:campaigns:update": Rule(_CAMPAIGNS),
    # CampaignBundle/Command/TriggerCampaignCommand: the same ones. Beside scheduled events it begins events for new
    # contacts, and those for contacts that did nothing for a while, which stand in no table.
    "mautic:campaigns:trigger": Rule(_CAMPAIGNS),
    # ChannelBundle/Entity/MessageQueueRepository::getQueuedMessages.
    "mautic:messages:send": Rule(_any(f"message_queue m WHERE {due.MESSAGES} AND m.scheduled_date <= {due.NOW}")),
    # EmailBundle/Entity/EmailRepository::getPublishedBroadcastsQuery, and SmsBundle/Entity/SmsRepository::
    # getPublishedBroadcasts: what is published with a date, and has not gone to all of its segments. Of a text, whom it
    # would go to is Mautic's own question. EmailBundle/EventListener/BroadcastSubscriber of 7: what has gone to all.
    "mautic:broadcasts:send": Rule(
        f"SELECT 1 FROM ({_any(f'emails e WHERE {due.BROADCASTS} AND {due.UNSENT}')}) mails"  # noqa: S608
        f" UNION ALL SELECT 1 FROM ({_any(f'sms_messages s WHERE {due.TEXTS}')}) texts"
        f" UNION ALL SELECT 1 FROM {due.SINCE_7} WHERE EXISTS ({_any(f'emails e WHERE {due.SENT}')})",
        plugins=True,
    ),
    # EmailBundle/Command/SendWinnerEmailCommand: e-mails of which there are variants.
    "mautic:email:sendwinner": Rule(_any("emails e WHERE e.variant_parent_id IS NOT NULL")),
    # LeadBundle/Model/ImportModel::getImportToProcess.
    "mautic:import": Rule(_any(f"imports WHERE {due.IMPORTS}")),
    # LeadBundle/Command/ContactScheduledExportCommand: some versions take all, some those whose time has come.
    "mautic:contacts:scheduled_export": Rule(_any("contact_export_scheduler")),
    # ReportBundle/Entity/SchedulerRepository::getScheduledReportsForExport.
    "mautic:reports:scheduler": Rule(_any(f"reports_schedulers WHERE {due.REPORTS}")),
    # WebhookBundle/Command/ProcessWebhookQueuesCommand, which does nothing in another mode. 7 passes over a webhook for
    # minutes and over what it refused for an hour; where somebody set other times, whatever waits is due.
    "mautic:webhooks:process": Rule(
        f"SELECT 1 FROM {due.SINCE_7} WHERE EXISTS (SELECT 1 FROM webhooks w"  # noqa: S608
        f" WHERE {due.WEBHOOKS} AND {due.HEALTHY}"
        f" AND EXISTS (SELECT 1 FROM webhook_queue WHERE webhook_id = w.id AND {due.RETRIED}))",
        queues_webhooks,
        otherwise=(
            ("webhook_health_check_time", "webhook_retry_delay"),
            _any(f"webhook_queue q JOIN webhooks w ON w.id = q.webhook_id WHERE {due.WEBHOOKS}"),
        ),
    ),
    # LeadBundle/Field/Command/DeleteCustomFieldCommand: one field a run.
    "mautic:custom-field:delete-column": Rule(_any("lead_fields WHERE column_is_not_removed = 1")),
    # EmailBundle/MonitoredEmail/Fetcher: whatever lies in an inbox, where there is one.
    "mautic:email:fetch": Rule(set_up=monitors_inbox),
}


def broadcast_plugins(folder: str) -> bool:
    """Whether a plugin listens to ChannelBundle's event CHANNEL_BROADCAST, so that it may have something to send."""
    for place, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".php"):
                with open(os.path.join(place, name), "rb") as file:
                    text = file.read()
                if b"CHANNEL_BROADCAST" in text or b"ChannelBroadcastEvent" in text or b"channel_broadcast" in text:
                    return True
    return False
