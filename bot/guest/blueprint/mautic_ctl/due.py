"""What each of Mautic's jobs takes up, as SQL conditions: rows that no job takes up again are not due.

Each follows a query of Mautic 5's own, named beside it (paths below app/bundles/). All datetimes of Mautic are UTC.
"""

NOW = "UTC_TIMESTAMP()"


def published(alias: str) -> str:
    """Return the condition of FormEntity::isPublished() for what has publish dates: campaigns and emails."""
    return (
        f"{alias}.is_published = 1 AND ({alias}.publish_up IS NULL OR {alias}.publish_up <= {NOW})"
        f" AND ({alias}.publish_down IS NULL OR {alias}.publish_down > {NOW})"
    )


MESSAGES = "m.success = 0 AND m.status <> 'sent' AND m.attempts < m.max_attempts"
"""`message_queue m` that mautic:messages:send takes: ChannelBundle/Entity/MessageQueueRepository::getQueuedMessages,
and MessageQueueModel::processMessageQueue, which passes over what is sent. Its time is `scheduled_date`."""

EVENTS = f"l.is_scheduled = 1 AND {published('c')}"
"""`campaign_lead_event_log l JOIN campaigns c` that mautic:campaigns:trigger takes: CampaignBundle/Entity/
LeadEventLogRepository::getScheduledCounts, and TriggerCampaignCommand, which passes over a campaign that is not within
its publish dates. Deleting a campaign unpublishes it; the rows of a deleted contact go with it. Its time is
`trigger_date`."""

WEBHOOKS = "w.is_published = 1"
"""`webhook_queue q JOIN webhooks w` that mautic:webhooks:process takes: WebhookBundle/Command/
ProcessWebhookQueuesCommand. Only with `queue_mode` command_process: the default sends at once, and never looks."""

IMPORTS = "status IN (1, 7)"
"""`imports` that mautic:import takes, queued and delayed ones, published or not: LeadBundle/Model/
ImportModel::getImportToProcess. One in progress (2) that died is taken up by nobody: only when another one starts does
setGhostImportsAsFailed call it failed."""

EXPORTS = f"scheduled_datetime <= {NOW}"
"""`contact_export_scheduler` that mautic:contacts:scheduled_export takes, ten a run: LeadBundle/Command/
ContactScheduledExportCommand."""

REPORTS = f"schedule_date <= {NOW}"
"""`reports_schedulers` that mautic:reports:scheduler takes: ReportBundle/Entity/
SchedulerRepository::getScheduledReportsForExport. An unpublished report is not sent, but gets its next date all the
same (ReportExporter)."""

BROADCASTS = f"e.email_type = 'list' AND e.publish_up IS NOT NULL AND {published('e')}"
"""`emails e` that mautic:broadcasts:send sends: EmailBundle/Entity/EmailRepository::getPublishedBroadcastsQuery. One
without a date goes out only where somebody sends it by hand."""

UNSENT = """EXISTS (SELECT 1 FROM email_list_xref x
  JOIN lead_lists_leads ll ON ll.leadlist_id = x.leadlist_id AND ll.manually_removed = 0 WHERE x.email_id = e.id
  AND NOT EXISTS (SELECT 1 FROM email_stats s WHERE s.email_id = e.id AND s.lead_id = ll.lead_id))"""
"""Whether a segment email has not gone to each contact of its segments: EmailRepository::getEmailPendingQuery, without
whom else it leaves out. A sent one stays published for ever."""

TEXTS = f"s.sms_type = 'list' AND s.publish_up IS NOT NULL AND {published('s')}"
"""`sms_messages s` that it sends: SmsBundle/Entity/SmsRepository::getPublishedBroadcasts."""

SEGMENTS = "is_published = 1"
"""`lead_lists` that mautic:segments:update builds."""
