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

SINCE_7 = "(SELECT 0 AS retries, NULL AS marked_unhealthy_at, 1 AS continue_sending) before_7"
"""What columns that Mautic has since 7 would say where it does not have them. It stands around a subquery in which they
are named without their table: SQL looks for such a name in the subquery's own tables first, and then here."""

HEALTHY = f"""(marked_unhealthy_at IS NULL
  OR marked_unhealthy_at NOT BETWEEN {NOW} - INTERVAL 300 SECOND AND {NOW} + INTERVAL 1 MINUTE)"""
"""`webhooks` that 7 does not pass over: WebhookService::getHealthyWebhookTime. What seems to be of the future was
written in another time zone, so that its time tells nothing."""

RETRIED = f"""(retries = 0 OR date_modified IS NULL
  OR date_modified NOT BETWEEN {NOW} - INTERVAL 1 HOUR AND {NOW} + INTERVAL 1 MINUTE)"""
"""`webhook_queue` whose time has come: what an endpoint refused is sent again an hour later, however often it was tried
(WebhookModel::getWebhookQueues of 7, `webhook_retry_delay`)."""

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
whom else it leaves out. A sent one stays published for ever; but see SENT."""

SENT = f"""{BROADCASTS} AND continue_sending = 0 AND e.sent_count > 0
  AND EXISTS (SELECT 1 FROM email_stats s WHERE s.email_id = e.id AND s.date_sent > {NOW} - INTERVAL 1 HOUR)"""  # noqa: S608 - made of constants
"""`emails e` that 7 unpublishes in the first run that finds nobody left to send them to: Email::
shouldCheckForUnpublishEmail. For an hour after its last mail, as one may stay published for ever: a test whose winner
nobody names."""

TEXTS = f"s.sms_type = 'list' AND s.publish_up IS NOT NULL AND {published('s')}"
"""`sms_messages s` that it sends: SmsBundle/Entity/SmsRepository::getPublishedBroadcasts."""

SEGMENTS = "is_published = 1"
"""`lead_lists` that mautic:segments:update builds."""
