"""SQL conditions for the rows that each of Mautic's jobs would process; rows that no job picks up again are not due.

Each condition follows one of Mautic 5's own queries, named beside it (paths below app/bundles/). All datetimes in
Mautic's tables are UTC.
"""

NOW = "UTC_TIMESTAMP()"


def published(alias: str) -> str:
    """Return FormEntity::isPublished() as SQL, for tables with publish dates such as campaigns and emails."""
    return (
        f"{alias}.is_published = 1 AND ({alias}.publish_up IS NULL OR {alias}.publish_up <= {NOW})"
        f" AND ({alias}.publish_down IS NULL OR {alias}.publish_down > {NOW})"
    )


MESSAGES = "m.success = 0 AND m.status <> 'sent' AND m.attempts < m.max_attempts"
"""Rows `message_queue m` that mautic:messages:send takes: ChannelBundle/Entity/
MessageQueueRepository::getQueuedMessages, and MessageQueueModel::processMessageQueue, which skips messages that are
already sent. They are due at `scheduled_date`."""

EVENTS = f"l.is_scheduled = 1 AND {published('c')}"
"""Rows `campaign_lead_event_log l JOIN campaigns c` that mautic:campaigns:trigger takes: CampaignBundle/Entity/
LeadEventLogRepository::getScheduledCounts, and TriggerCampaignCommand, which skips campaigns outside their publish
dates. Deleting a campaign unpublishes it; deleting a contact deletes its rows. They are due at `trigger_date`."""

WEBHOOKS = "w.is_published = 1"
"""Rows `webhook_queue q JOIN webhooks w` that mautic:webhooks:process takes: WebhookBundle/Command/
ProcessWebhookQueuesCommand. Only with `queue_mode` command_process: by default Mautic sends webhooks at once and never
looks at this table."""

SINCE_7 = "(SELECT 0 AS retries, NULL AS marked_unhealthy_at, 1 AS continue_sending) before_7"
"""Default values for columns that Mautic has only since version 7. The outer query selects from this table, and a
subquery names the columns without a table: SQL looks for such a name in the subquery's own tables first, then here."""

HEALTHY = f"""(marked_unhealthy_at IS NULL
  OR marked_unhealthy_at NOT BETWEEN {NOW} - INTERVAL 300 SECOND AND {NOW} + INTERVAL 1 MINUTE)"""
"""Rows of `webhooks` that Mautic 7 does not skip: WebhookService::getHealthyWebhookTime. A time in the future was
written in another time zone and is ignored."""

RETRIED = f"""(retries = 0 OR date_modified IS NULL
  OR date_modified NOT BETWEEN {NOW} - INTERVAL 1 HOUR AND {NOW} + INTERVAL 1 MINUTE)"""
"""Rows of `webhook_queue` that may be sent now: what an endpoint refused is sent again an hour later, however often it
was tried (WebhookModel::getWebhookQueues of Mautic 7, `webhook_retry_delay`)."""

IMPORTS = "status IN (1, 7)"
"""Rows of `imports` that mautic:import takes, queued and delayed ones, published or not: LeadBundle/Model/
ImportModel::getImportToProcess. An import in progress (2) whose process died is never resumed: only when another import
starts does setGhostImportsAsFailed mark it as failed."""

EXPORTS = f"scheduled_datetime <= {NOW}"
"""Rows of `contact_export_scheduler` that mautic:contacts:scheduled_export takes, ten per run: LeadBundle/Command/
ContactScheduledExportCommand."""

REPORTS = f"schedule_date <= {NOW}"
"""Rows of `reports_schedulers` that mautic:reports:scheduler takes: ReportBundle/Entity/
SchedulerRepository::getScheduledReportsForExport. An unpublished report is not sent, but still gets its next date
(ReportExporter)."""

BROADCASTS = f"e.email_type = 'list' AND e.publish_up IS NOT NULL AND {published('e')}"
"""Rows `emails e` that mautic:broadcasts:send sends: EmailBundle/Entity/EmailRepository::getPublishedBroadcastsQuery.
An email without a date goes out only when somebody sends it by hand."""

UNSENT = """EXISTS (SELECT 1 FROM email_list_xref x
  JOIN lead_lists_leads ll ON ll.leadlist_id = x.leadlist_id AND ll.manually_removed = 0 WHERE x.email_id = e.id
  AND NOT EXISTS (SELECT 1 FROM email_stats s WHERE s.email_id = e.id AND s.lead_id = ll.lead_id))"""
"""Whether a segment email has yet to go to some contact of its segments: EmailRepository::getEmailPendingQuery, without
that query's other exclusions. A segment email that was sent stays published for ever; but see SENT."""

SENT = f"""{BROADCASTS} AND continue_sending = 0 AND e.sent_count > 0
  AND EXISTS (SELECT 1 FROM email_stats s WHERE s.email_id = e.id AND s.date_sent > {NOW} - INTERVAL 1 HOUR)"""  # noqa: S608 - made of constants
"""Rows `emails e` that Mautic 7 unpublishes in the first run that finds nobody left to send them to: Email::
shouldCheckForUnpublishEmail. Limited to an hour after the last mail, since an A/B test whose winner nobody names stays
published for ever."""

TEXTS = f"s.sms_type = 'list' AND s.publish_up IS NOT NULL AND {published('s')}"
"""Rows `sms_messages s` that mautic:broadcasts:send sends: SmsBundle/Entity/SmsRepository::getPublishedBroadcasts."""

SEGMENTS = "is_published = 1"
"""Rows of `lead_lists` that mautic:segments:update builds."""
