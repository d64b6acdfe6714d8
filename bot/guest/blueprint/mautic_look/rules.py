"""The table of rules that decides for which of Mautic's jobs PHP is started.

A rule may say yes where Mautic then finds nothing, but must never say no where Mautic would find something. So each
rule is Mautic's own condition (paths below app/bundles/, from the sources of 5.0 to 7), or a wider one. A job without a
rule runs every time. If plugins can add work to a job, its rule looks for such plugins: see `broadcast_plugins`.
"""

import os
import re
from collections.abc import Callable

from ..mautic_ctl import due

MAJORS = range(5, 8)
"""Mautic's major versions whose sources the rules follow; for any other version all jobs run."""


class Rule:
    """When a job has something to do.

    `rows`: a query that returns a row if so; "": always. `set_up`: whether Mautic's configuration (the text of its
    files) has set the job up at all; None: the job needs no setup. `plugins`: whether plugins may add work that the
    query does not find. `otherwise`: names of parameters, and the query that replaces `rows` if the configuration has
    any of them.
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
    """Return whether webhooks are queued for their job; by default they are sent at once, and the job does nothing.

    A value that is not a plain string could be anything, so it counts as queued.
    """
    told = re.findall(r"""['"]queue_mode['"]\s*=>\s*(['"]\w*['"])?""", config)
    return any(value in ("", "'command_process'", '"command_process"') for value in told)


def monitors_inbox(config: str) -> bool:
    """Return whether an inbox is set up: of all Mautic parameters only an inbox has one named exactly `host`."""
    told = re.findall(r"""['"]host['"]\s*=>\s*(''|""|null|NULL)?""", config)
    return any(value == "" for value in told)


_CAMPAIGNS = _any(f"campaigns c WHERE {due.published('c')}")
RULES = {
    # LeadBundle/Command/UpdateLeadListsCommand: each published segment, whatever happened since. Any change of any
    # contact, or time alone, may add or remove a contact, so no narrower condition is correct.
    "mautic:segments:update": Rule(_any(f"lead_lists WHERE {due.SEGMENTS}")),
    # CampaignBundle/Command/UpdateLeadCampaignsCommand: each campaign for which FormEntity::isPublished() holds.
    "mautic:campaigns:update": Rule(_CAMPAIGNS),
    # CampaignBundle/Command/TriggerCampaignCommand: the same campaigns. Besides scheduled events it starts events for
    # new contacts, and for contacts that did nothing for a while, and no table lists those.
    "mautic:campaigns:trigger": Rule(_CAMPAIGNS),
    # ChannelBundle/Entity/MessageQueueRepository::getQueuedMessages.
    "mautic:messages:send": Rule(_any(f"message_queue m WHERE {due.MESSAGES} AND m.scheduled_date <= {due.NOW}")),
    # EmailBundle/Entity/EmailRepository::getPublishedBroadcastsQuery, and SmsBundle/Entity/SmsRepository::
    # getPublishedBroadcasts: what is published with a date, and for emails has not gone to all of its segments; of text
    # messages only Mautic knows the recipients. EmailBundle/EventListener/BroadcastSubscriber of 7: emails that have
    # gone to all, which Mautic then unpublishes.
    "mautic:broadcasts:send": Rule(
        f"SELECT 1 FROM ({_any(f'emails e WHERE {due.BROADCASTS} AND {due.UNSENT}')}) mails"  # noqa: S608
        f" UNION ALL SELECT 1 FROM ({_any(f'sms_messages s WHERE {due.TEXTS}')}) texts"
        f" UNION ALL SELECT 1 FROM {due.SINCE_7} WHERE EXISTS ({_any(f'emails e WHERE {due.SENT}')})",
        plugins=True,
    ),
    # EmailBundle/Command/SendWinnerEmailCommand: emails that have variants.
    "mautic:email:sendwinner": Rule(_any("emails e WHERE e.variant_parent_id IS NOT NULL")),
    # LeadBundle/Model/ImportModel::getImportToProcess.
    "mautic:import": Rule(_any(f"imports WHERE {due.IMPORTS}")),
    # LeadBundle/Command/ContactScheduledExportCommand: some versions take all exports, some only those that are due.
    "mautic:contacts:scheduled_export": Rule(_any("contact_export_scheduler")),
    # ReportBundle/Entity/SchedulerRepository::getScheduledReportsForExport.
    "mautic:reports:scheduler": Rule(_any(f"reports_schedulers WHERE {due.REPORTS}")),
    # WebhookBundle/Command/ProcessWebhookQueuesCommand, which does nothing in another mode. Mautic 7 skips an unhealthy
    # webhook for minutes, and what an endpoint refused for an hour. If the configuration sets other times, everything
    # that waits is due.
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
    # LeadBundle/Field/Command/DeleteCustomFieldCommand: one field per run.
    "mautic:custom-field:delete-column": Rule(_any("lead_fields WHERE column_is_not_removed = 1")),
    # EmailBundle/MonitoredEmail/Fetcher: runs every time if an inbox is set up, as only Mautic can look into it.
    "mautic:email:fetch": Rule(set_up=monitors_inbox),
}


def broadcast_plugins(folder: str) -> bool:
    """Return whether a plugin listens to ChannelBundle's event CHANNEL_BROADCAST and so may have something to send."""
    for place, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".php"):
                with open(os.path.join(place, name), "rb") as file:
                    text = file.read()
                if b"CHANNEL_BROADCAST" in text or b"ChannelBroadcastEvent" in text or b"channel_broadcast" in text:
                    return True
    return False
