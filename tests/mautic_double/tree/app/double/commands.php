<?php
// Mautic double: the table of commands. 'options': "long|short", a value marked by "="; 'key': the lock's key (moderated).

function aliases(): array
{
    return ['mautic:segments:rebuild' => 'mautic:segments:update', 'mautic:campaigns:rebuild' => 'mautic:campaigns:update',
        'mautic:plugins:install' => 'mautic:plugins:reload', 'mautic:plugins:update' => 'mautic:plugins:reload'];
}

function commands(): array
{
    $moderated = ['bypass-locking', 'timeout|t=', 'lock_mode|x='];
    $threads = ['min-contact-id=', 'max-contact-id=', 'thread-id=', 'max-threads='];
    $no_key = fn (array $o): string => '';

    return [
        'mautic:install' => ['arguments' => [1, 2], 'options' => ['force|f', ...array_map(fn ($o) => "$o=", ['db_driver', 'db_host', 'db_port', 'db_name', 'db_user', 'db_password', 'db_table_prefix', 'db_backup_tables', 'db_backup_prefix', 'admin_firstname', 'admin_lastname', 'admin_username', 'admin_email', 'admin_password'])], 'run' => install(...)],
        'mautic:segments:update' => ['options' => ['batch-limit|b=', 'max-contacts|m=', 'list-id|i=', 'timing', 'exclude|d=', 'force|f', ...$moderated], 'key' => fn ($o) => $o['list-id'] ?? '', 'run' => update_segments(...)],
        'mautic:campaigns:update' => ['options' => ['batch-limit|l=', 'max-contacts|m=', 'campaign-id|i=', 'contact-id=', 'contact-ids=', 'exclude|d=', 'force|f', ...$threads, ...$moderated], 'key' => fn ($o) => $o['campaign-id'] ?? '', 'run' => update_campaigns(...)],
        'mautic:campaigns:trigger' => ['options' => ['campaign-id|i=', 'batch-limit|l=', 'campaign-limit=', 'kickoff-only', 'scheduled-only', 'inactive-only', 'contact-id=', 'contact-ids=', 'exclude|d=', 'force|f', ...$threads, ...$moderated], 'key' => fn ($o) => ($o['campaign-id'] ?? '') . '-' . ($o['thread-id'] ?? ''), 'run' => trigger_campaigns(...)],
        'mautic:messages:send' => ['options' => ['channel|c=', 'channel-id|i=', 'message-id|m=', 'force|f', ...$moderated], 'key' => $no_key, 'run' => send_messages(...)],
        'mautic:broadcasts:send' => ['options' => ['channel|c=', 'id|i=', 'limit|l=', 'batch|b=', 'force|f', ...$threads, ...$moderated], 'key' => fn ($o) => ($o['channel'] ?? '') . ($o['id'] ?? ''), 'run' => send_broadcasts(...)],
        'mautic:import' => ['options' => ['id|i=', 'limit|l='], 'run' => import_contacts(...)],
        'mautic:contacts:scheduled_export' => ['options' => ['ids='], 'run' => export_contacts(...)],
        'mautic:reports:scheduler' => ['options' => ['report='], 'run' => schedule_reports(...)],
        'mautic:webhooks:process' => ['options' => ['webhook-id|i=', 'min-id=', 'max-id='], 'run' => process_webhooks(...)],
        'mautic:webhooks:delete_logs' => ['run' => delete_webhook_logs(...)],
        'mautic:contacts:cleanup_exported_files' => ['arguments' => [0, 1], 'run' => remove_exports(...)],
        'mautic:unusedip:delete' => ['options' => ['limit|l=', 'force|f', ...$moderated], 'key' => $no_key, 'run' => delete_unused_ips(...)],
        'mautic:iplookup:download' => ['run' => function ($a, $o, $say): int {
            $say('The IP lookup data could not be downloaded.');

            return 0;
        }],
        'mautic:donotsell:download' => ['run' => function ($a, $o, $say): int {
            $say('The Do Not Sell list could not be downloaded.');

            return 0;
        }],
        'mautic:max-mind:purge' => ['options' => ['dry-run|d'], 'run' => function ($a, $o, $say): int {
            $say('0 contacts were purged.');

            return 0;
        }],
        'mautic:email:fetch' => ['options' => ['message-limit|m='], 'run' => function ($a, $o, $say): int {
            $say('No mailboxes are configured.');

            return 0;
        }],
        'mautic:plugins:reload' => ['run' => reload_plugins(...)],
        'mautic:maintenance:cleanup' => ['options' => ['days-old|d=', 'dry-run|r', 'gdpr|g', 'force|f', ...$moderated], 'key' => $no_key, 'run' => clean_up(...)],
        'mautic:update:find' => ['run' => function ($a, $o, $say): int {
            $say('An error occurred while checking for updates.');

            return 0;
        }],
        'mautic:cache:clear' => ['run' => function ($a, $o, $say): int {
            delete_tree(root() . '/var/cache/prod/pools');
            $say('Cache cleared.');

            return 0;
        }],
        'cache:clear' => ['options' => ['no-warmup', 'no-optional-warmers'], 'run' => clear_cache(...)],
        'cache:warmup' => ['options' => ['no-optional-warmers'], 'run' => function ($a, $o, $say): int {
            container();
            $say(' [OK] Cache for the "prod" environment (debug=false) was successfully warmed.');

            return 0;
        }],
        'messenger:consume' => ['arguments' => [0, 9], 'options' => ['limit|l=', 'failure-limit|f=', 'memory-limit|m=', 'time-limit|t=', 'sleep=', 'bus|b=', 'queues=', 'no-reset'], 'run' => consume(...)],
        'messenger:setup-transports' => ['arguments' => [0, 1], 'run' => set_up_transports(...)],
        'messenger:failed:show' => ['arguments' => [0, 1], 'options' => ['max=', 'transport=', 'stats', 'class-filter='], 'run' => show_failed(...)],
        'messenger:failed:retry' => ['arguments' => [0, 1000], 'options' => ['force', 'transport='], 'run' => retry_failed(...)],
        'messenger:stop-workers' => ['run' => function ($a, $o, $say): int {
            @mkdir(root() . '/var/cache/prod/pools', 0775, true);
            file_put_contents(root() . '/var/cache/prod/pools/workers.restart_requested_timestamp', (string) microtime(true));
            $say(' [OK] Signal successfully sent to stop any running workers.');

            return 0;
        }],
        'mautic:update:apply' => ['options' => ['force', 'update-package|p=', 'finish'], 'run' => update(...)],
        'doctrine:migrations:status' => ['run' => migrations_status(...)],
        'doctrine:migrations:up-to-date' => ['options' => ['fail-on-unregistered|u', 'list-migrations|l'], 'run' => migrations_up_to_date(...)],
        'doctrine:migrations:sync-metadata-storage' => ['run' => sync_metadata_storage(...)],
        'doctrine:migrations:version' => ['arguments' => [0, 1], 'options' => ['add', 'delete', 'all', 'range-from=', 'range-to='], 'run' => mark_migrations(...)],
        'doctrine:migrations:migrate' => ['arguments' => [0, 1], 'options' => ['dry-run', 'allow-no-migration', 'all-or-nothing', 'write-sql', 'query-time'], 'run' => migrate(...)],
    ];
}

function update_segments(array $a, array $o, callable $say): int
{
    $db = database();
    $lists = query($db, 'SELECT id, is_published, filters FROM lead_lists' . (isset($o['list-id']) ? ' WHERE id = ' . (int) $o['list-id'] : ' WHERE is_published = 1') . ' ORDER BY id')->fetchAll();
    if (isset($o['list-id']) && !$lists) {
        $say("Segment #{$o['list-id']} does not exist");

        return 1;
    }
    foreach ($lists as $list) {
        if (in_array((string) $list['id'], explode(',', (string) ($o['exclude'] ?? '')), true)) {
            continue;
        }
        $say("Rebuilding contacts for segment {$list['id']}");
        $changed = rebuild_members($db, (int) $list['id'], (string) $list['filters']);
        if (!isset($o['max-contacts'])) {
            query($db, 'UPDATE lead_lists SET last_built_date = UTC_TIMESTAMP(), last_built_time = 0 WHERE id = ?', [$list['id']]);
        }
        $say("$changed contact(s) affected");
    }

    return 0;
}

/** Adds who fits all filters of a segment, and removes who does not; what a person added or removed stays. */
function rebuild_members(PDO $db, int $list, string $filters): int
{
    $filters = unserialize($filters, ['allowed_classes' => false]) ?: [];
    $fits = $values = [];
    foreach ($filters as $filter) {
        $field = in_array($filter['field'], ['email', 'firstname', 'lastname', 'points'], true) ? $filter['field'] : throw new RuntimeException(BADGE . ': a filter of this field is not imitated.');
        $value = $filter['properties']['filter'] ?? $filter['filter'] ?? null;
        [$condition, $its] = match ($filter['operator']) {
            '=' => ["l.$field = ?", [$value]],
            '!=' => ["(l.$field IS NULL OR l.$field <> ?)", [$value]],
            'empty' => ["(l.$field IS NULL OR l.$field = '')", []],
            '!empty' => ["l.$field <> ''", []],
            'contains' => ["l.$field LIKE ?", ["%$value%"]],
        };
        $fits[] = $condition;
        array_push($values, ...$its);
    }
    // Without a filter nobody fits: such a segment has who was added by hand.
    $fits = $fits ? implode(' AND ', $fits) : 'FALSE';
    $added = query($db, "INSERT IGNORE INTO lead_lists_leads (leadlist_id, lead_id, date_added) SELECT $list, l.id, UTC_TIMESTAMP() FROM leads l WHERE $fits", $values)->rowCount();
    $removed = query($db, "DELETE ll FROM lead_lists_leads ll JOIN leads l ON l.id = ll.lead_id WHERE ll.leadlist_id = $list AND ll.manually_added = 0 AND ll.manually_removed = 0 AND NOT ($fits)", $values)->rowCount();

    return $filters ? $added + $removed : 0;
}

/** The condition of FormEntity::isPublished() for what has publish dates. */
function is_published(string $alias): string
{
    return "$alias.is_published = 1 AND ($alias.publish_up IS NULL OR $alias.publish_up <= UTC_TIMESTAMP()) AND ($alias.publish_down IS NULL OR $alias.publish_down > UTC_TIMESTAMP())";
}

function published_campaigns(PDO $db, array $o): array
{
    return query($db, 'SELECT c.id FROM campaigns c WHERE ' . is_published('c') . (isset($o['campaign-id']) ? ' AND c.id = ' . (int) $o['campaign-id'] : '') . ' ORDER BY c.id DESC')->fetchAll(PDO::FETCH_COLUMN);
}

/** Puts a mail into the queue, as Mautic does: its statistics say from then on that it was sent. */
function send_mail(PDO $db, ?int $email, int $lead): void
{
    $to = (string) query($db, 'SELECT email FROM leads WHERE id = ?', [$lead])->fetchColumn();
    query($db, 'INSERT INTO email_stats (email_id, lead_id, email_address, date_sent) VALUES (?, ?, ?, UTC_TIMESTAMP())', [$email, $lead, $to]);
    query($db, 'UPDATE emails SET sent_count = sent_count + 1 WHERE id = ?', [$email]);
    $dsn = parameters()['messenger_dsn_email'];
    if (str_starts_with($dsn, 'sync://')) {
        deliver($to);

        return;
    }
    setup_transport($db);
    query($db, 'INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at) VALUES (?, ?, ?, UTC_TIMESTAMP(), UTC_TIMESTAMP())', [json_encode(['to' => $to]), '[]', queue_of('email')]);
}

/** Hands a mail over; where a real one would go to the mail server, this one goes to a file. */
function deliver(string $to): void
{
    file_put_contents(root() . '/var/double-outbox.log', gmdate('c') . " $to\n", FILE_APPEND | LOCK_EX);
}

function update_campaigns(array $a, array $o, callable $say): int
{
    $db = database();
    foreach (published_campaigns($db, $o) as $campaign) {
        $say("Rebuilding contacts for campaign $campaign");
        $added = query($db, 'INSERT IGNORE INTO campaign_leads (campaign_id, lead_id, date_added) SELECT x.campaign_id, ll.lead_id, UTC_TIMESTAMP() FROM campaign_leadlist_xref x JOIN lead_lists_leads ll ON ll.leadlist_id = x.leadlist_id AND ll.manually_removed = 0 WHERE x.campaign_id = ?', [$campaign])->rowCount();
        $say("$added total contact(s) to be added in batches of " . ($o['batch-limit'] ?? 300));
    }

    return 0;
}

function trigger_campaigns(array $a, array $o, callable $say): int
{
    $db = database();
    foreach (published_campaigns($db, $o) as $campaign) {
        $say("Triggering events for campaign $campaign");
        // Who is new in it begins with its first actions, which stand in no table before.
        query($db, "INSERT INTO campaign_lead_event_log (event_id, lead_id, campaign_id, rotation, is_scheduled, trigger_date) SELECT e.id, m.lead_id, m.campaign_id, m.rotation, 1, UTC_TIMESTAMP() FROM campaign_leads m JOIN campaign_events e ON e.campaign_id = m.campaign_id AND e.parent_id IS NULL AND e.event_type = 'action' WHERE m.campaign_id = ? AND m.manually_removed = 0 AND NOT EXISTS (SELECT 1 FROM campaign_lead_event_log l WHERE l.campaign_id = m.campaign_id AND l.lead_id = m.lead_id AND l.rotation = m.rotation)", [$campaign]);
        $due = query($db, 'SELECT l.id, l.lead_id, e.type, e.channel_id FROM campaign_lead_event_log l LEFT JOIN campaign_events e ON e.id = l.event_id WHERE l.campaign_id = ? AND l.is_scheduled = 1 AND l.trigger_date <= UTC_TIMESTAMP() ORDER BY l.id LIMIT ' . (int) ($o['campaign-limit'] ?? 1000000), [$campaign])->fetchAll();
        foreach ($due as $log) {
            query($db, 'UPDATE campaign_lead_event_log SET is_scheduled = 0, date_triggered = UTC_TIMESTAMP(), system_triggered = 1 WHERE id = ?', [$log['id']]);
            if ($log['type'] === 'email.send') {
                send_mail($db, $log['channel_id'] === null ? null : (int) $log['channel_id'], (int) $log['lead_id']);
            }
        }
        $done = count($due);
        $say("$done total events(s) were executed");
    }

    return 0;
}

function send_messages(array $a, array $o, callable $say): int
{
    $db = database();
    // What was tried as often as it may be is never looked at again; the status is looked at only to pass over what is sent.
    $due = query($db, "SELECT id, lead_id, channel, channel_id FROM message_queue WHERE success = 0 AND attempts < max_attempts AND (last_attempt IS NULL OR last_attempt < UTC_TIMESTAMP()) AND scheduled_date <= UTC_TIMESTAMP() AND status <> 'sent' ORDER BY priority, scheduled_date LIMIT 50")->fetchAll();
    foreach ($due as $message) {
        query($db, "UPDATE message_queue SET status = 'sent', success = 1, last_attempt = UTC_TIMESTAMP(), date_sent = UTC_TIMESTAMP() WHERE id = ?", [$message['id']]);
        if ($message['channel'] === 'email') {
            send_mail($db, (int) $message['channel_id'], (int) $message['lead_id']);
        }
    }
    $sent = count($due);
    $say("Messages sent: $sent");

    return 0;
}

function send_broadcasts(array $a, array $o, callable $say): int
{
    $db = database();
    $sent = 0;
    foreach (query($db, "SELECT e.id FROM emails e WHERE e.email_type = 'list' AND e.publish_up IS NOT NULL AND " . is_published('e') . (isset($o['id']) ? ' AND e.id = ' . (int) $o['id'] : ''))->fetchAll(PDO::FETCH_COLUMN) as $email) {
        $pending = query($db, "SELECT DISTINCT l.id FROM leads l JOIN lead_lists_leads ll ON ll.lead_id = l.id AND ll.manually_removed = 0 JOIN email_list_xref x ON x.leadlist_id = ll.leadlist_id AND x.email_id = ? WHERE l.email <> '' AND NOT EXISTS (SELECT 1 FROM email_stats s WHERE s.lead_id = l.id AND s.email_id = x.email_id) AND NOT EXISTS (SELECT 1 FROM lead_donotcontact d WHERE d.lead_id = l.id AND d.channel = 'email') AND NOT EXISTS (SELECT 1 FROM message_queue m WHERE m.lead_id = l.id AND m.channel = 'email' AND m.channel_id = x.email_id AND m.status <> 'sent')", [$email])->fetchAll(PDO::FETCH_COLUMN);
        foreach ($pending as $lead) {
            send_mail($db, (int) $email, (int) $lead);
            ++$sent;
        }
        // 7 ends one that is not to go on, in the first run that finds nobody left.
        if (!$pending && has_column($db, 'emails', 'continue_sending') && query($db, 'UPDATE emails SET is_published = 0 WHERE id = ? AND continue_sending = 0 AND sent_count > 0', [$email])->rowCount()) {
            $say("Email \"$email\" has been unpublished as there are no more pending contacts to send to.");
        }
    }
    // Text messages go the same way; here they go nowhere.
    $texts = query($db, "INSERT INTO sms_message_stats (sms_id, lead_id, list_id, date_sent) SELECT DISTINCT s.id, ll.lead_id, x.leadlist_id, UTC_TIMESTAMP() FROM sms_messages s JOIN sms_message_list_xref x ON x.sms_id = s.id JOIN lead_lists_leads ll ON ll.leadlist_id = x.leadlist_id AND ll.manually_removed = 0 WHERE s.sms_type = 'list' AND s.publish_up IS NOT NULL AND " . is_published('s') . ' AND NOT EXISTS (SELECT 1 FROM sms_message_stats t WHERE t.sms_id = s.id AND t.lead_id = ll.lead_id)')->rowCount();
    array_map($say, ['+---------+-----------+-----------+', '| Channel | # sent    | # failed  |', '+---------+-----------+-----------+']);
    if ($sent) {
        $say(sprintf('| Email   | %-9d | 0         |', $sent));
    }
    if ($texts) {
        $say(sprintf('| Text    | %-9d | 0         |', $texts));
    }

    return 0;
}

function import_contacts(array $a, array $o, callable $say): int
{
    $db = database();
    // Published or not; one in progress that died is not among them.
    $import = query($db, 'SELECT * FROM imports WHERE ' . (isset($o['id']) ? 'id = ' . (int) $o['id'] : 'status IN (1, 7)') . ' ORDER BY priority, date_added DESC LIMIT 1')->fetch();
    if (!$import) {
        return isset($o['id']) ? 1 : 0;
    }
    query($db, 'UPDATE imports SET status = 4 WHERE status = 2 AND date_modified < UTC_TIMESTAMP() - INTERVAL 2 HOUR');
    if (query($db, 'SELECT COUNT(*) FROM imports WHERE status = 2')->fetchColumn() >= 1) {
        query($db, 'UPDATE imports SET status = 7, date_modified = UTC_TIMESTAMP() WHERE id = ?', [$import['id']]);

        return 1;
    }
    if (!is_file($import['dir'] . '/' . $import['file'])) {
        query($db, 'UPDATE imports SET status = 4, date_modified = UTC_TIMESTAMP() WHERE id = ?', [$import['id']]);
        $say("The import failed. Reason: File {$import['file']} could not be found.");

        return 1;
    }
    query($db, 'UPDATE imports SET status = 2, date_started = UTC_TIMESTAMP(), date_modified = UTC_TIMESTAMP() WHERE id = ?', [$import['id']]);
    $file = fopen($import['dir'] . '/' . $import['file'], 'rb');
    $head = fgetcsv($file);
    $count = 0;
    while ($row = fgetcsv($file)) {
        $contact = array_combine($head, $row);
        query($db, 'INSERT INTO leads (date_added, date_identified, email, firstname, lastname) VALUES (UTC_TIMESTAMP(), UTC_TIMESTAMP(), ?, ?, ?)', [$contact['email'] ?? null, $contact['firstname'] ?? null, $contact['lastname'] ?? null]);
        ++$count;
    }
    query($db, 'UPDATE imports SET status = 3, inserted_count = ?, date_ended = UTC_TIMESTAMP(), date_modified = UTC_TIMESTAMP() WHERE id = ?', [$count, $import['id']]);
    $say("$count lines were processed, $count items created, 0 items updated, 0 items ignored");

    return 0;
}

function export_contacts(array $a, array $o, callable $say): int
{
    $done = query(database(), 'DELETE FROM contact_export_scheduler WHERE scheduled_datetime <= UTC_TIMESTAMP() ORDER BY id LIMIT 10')->rowCount();
    $say("Contact export email(s) sent: $done");

    return 0;
}

function remove_exports(array $a, array $o, callable $say): int
{
    foreach (glob(root() . '/media/files/temp/contacts_export_*') ?: [] as $file) {
        if (filemtime($file) <= time() - 86_400 * (int) ($a[0] ?? 7)) {
            unlink($file);
        }
    }

    return 0;
}

function schedule_reports(array $a, array $o, callable $say): int
{
    query(database(), 'UPDATE reports_schedulers SET schedule_date = UTC_TIMESTAMP() + INTERVAL 1 DAY WHERE schedule_date <= UTC_TIMESTAMP()');
    $say('Scheduler has finished');

    return 0;
}

function process_webhooks(array $a, array $o, callable $say): int
{
    if (parameters()['queue_mode'] !== 'command_process') {
        $say('Webhook Bundle is in immediate process mode. To use the command function change to command mode.');

        return 0;
    }
    $db = database();
    // 7 passes over a webhook for five minutes, and over what it refused for an hour; 7.2 calls it no failure to have none.
    [$of_7, $of_7_2] = [version_compare(core_version(), '7', '>='), version_compare(core_version(), '7.2', '>=')];
    $taken = 'w.is_published = 1' . ($of_7 ? ' AND (w.marked_unhealthy_at IS NULL OR w.marked_unhealthy_at < UTC_TIMESTAMP() - INTERVAL 300 SECOND)' : '');
    if (!query($db, "SELECT COUNT(*) FROM webhooks w WHERE $taken")->fetchColumn()) {
        $say($of_7_2 ? 'There are no published webhooks to process.' : ($of_7 ? 'No published/Healthy webhooks found. Try again later.' : 'No published webhooks found. Try again later.'));

        return $of_7_2 ? 0 : 1;
    }
    query($db, "DELETE q FROM webhook_queue q JOIN webhooks w ON w.id = q.webhook_id WHERE $taken" . ($of_7 ? ' AND (q.retries = 0 OR q.date_modified < UTC_TIMESTAMP() - INTERVAL 1 HOUR)' : ''));
    $say('Webhook Processing Complete');

    return 0;
}

function delete_webhook_logs(array $a, array $o, callable $say): int
{
    $db = database();
    foreach (query($db, 'SELECT id FROM webhooks')->fetchAll(PDO::FETCH_COLUMN) as $id) {
        $keep = query($db, 'SELECT id FROM webhook_logs WHERE webhook_id = ? ORDER BY id DESC LIMIT 1 OFFSET ' . ((int) parameters()['webhook_log_max'] - 1), [$id])->fetchColumn();
        query($db, 'DELETE FROM webhook_logs WHERE webhook_id = ? AND id < ?', [$id, (int) $keep]);
    }
    $say('0 logs have been deleted');

    return 0;
}

function delete_unused_ips(array $a, array $o, callable $say): int
{
    $gone = query(database(), 'DELETE FROM ip_addresses WHERE id NOT IN (SELECT ip_id FROM lead_ips_xref) AND id NOT IN (SELECT ip_id FROM page_hits WHERE ip_id IS NOT NULL) LIMIT ' . (int) ($o['limit'] ?? 10000))->rowCount();
    $say("$gone unused IP addresses have been deleted.");

    return 0;
}

/** Tells the table `plugins` which there are: those that the compiled container knows. */
function reload_plugins(array $a, array $o, callable $say): int
{
    $db = database();
    $plugins = container()['plugins'];
    $known = query($db, 'SELECT bundle, version FROM plugins')->fetchAll(PDO::FETCH_KEY_PAIR);
    $new = $updated = 0;
    foreach ($plugins as $folder => $plugin) {
        if (!array_key_exists($folder, $known)) {
            query($db, 'INSERT INTO plugins (name, bundle, version, author) VALUES (?, ?, ?, ?)', [$plugin['name'], $folder, $plugin['version'], $plugin['author']]);
            ++$new;
            continue;
        }
        $updated += version_compare((string) $known[$folder], (string) $plugin['version'], 'lt') ? 1 : 0;
        query($db, 'UPDATE plugins SET is_missing = 0, name = ?, version = ? WHERE bundle = ?', [$plugin['name'], $plugin['version'], $folder]);
    }
    foreach (array_diff_key($known, $plugins) as $folder => $_) {
        query($db, 'UPDATE plugins SET is_missing = 1 WHERE bundle = ?', [$folder]);
    }
    $say("$new new plugins were installed and $updated updated.");

    return 0;
}

function clean_up(array $a, array $o, callable $say): int
{
    $days = (int) ($o['days-old'] ?? (isset($o['gdpr']) ? 1095 : 365));
    if (!isset($o['no-interaction']) && !isset($o['dry-run'])) {
        $say("You are about to delete records older than $days days. Continue? [y/n]");

        return 0;
    }
    $db = database();
    foreach (['leads' => 'date_identified IS NULL AND last_active', 'page_hits' => 'date_hit', 'lead_utmtags' => 'date_added', 'audit_log' => 'date_added', 'notifications' => 'date_added'] as $table => $column) {
        $old = "FROM $table WHERE $column < UTC_TIMESTAMP() - INTERVAL $days DAY";
        $count = isset($o['dry-run']) ? query($db, "SELECT COUNT(*) $old")->fetchColumn() : query($db, "DELETE $old")->rowCount();
        $say("$table: $count");
    }

    return 0;
}

function clear_cache(array $a, array $o, callable $say): int
{
    $limit = bytes_of(ini_get('memory_limit'));
    if ($limit > 0 && $limit < 384 << 20) {
        fwrite(STDERR, "PHP Fatal error:  Allowed memory size of $limit bytes exhausted\n");

        return 255;
    }
    $say(' // Clearing the cache for the prod environment with debug false');
    delete_tree(root() . '/var/cache/prod');
    if (!isset($o['no-warmup'])) {
        container();
        // The warmers write what pages read: templates, translations, routes.
        file_put_contents(root() . '/var/cache/prod/warmed.bin', str_repeat(hash('sha256', metadata()['version'], true), 4096));
    }
    $say(' [OK] Cache for the "prod" environment (debug=false) was successfully cleared.');

    return 0;
}

/** Bytes of a size such as "512M". */
function bytes_of(string $size): int
{
    return (int) $size * (['K' => 1 << 10, 'M' => 1 << 20, 'G' => 1 << 30][strtoupper(substr($size, -1))] ?? 1);
}

/** The queue's name of a receiver's transport; throws where it cannot be consumed. */
function queue_of(string $receiver): string
{
    $dsn = parameters()["messenger_dsn_$receiver"] ?? null;
    if (!in_array($receiver, ['email', 'hit', 'failed'], true) || $dsn === null) {
        throw new RuntimeException("The receiver \"$receiver\" does not exist. Valid receivers are: email, hit.");
    }
    if (str_starts_with($dsn, 'sync://')) {
        throw new RuntimeException('You cannot receive messages from the Messenger SyncTransport.');
    }
    parse_str(parse_url($dsn, PHP_URL_QUERY) ?: '', $settings);

    return $settings['queue_name'] ?? 'default';
}

function consume(array $receivers, array $o, callable $say): int
{
    if (!$receivers) {
        throw new RuntimeException('Please pass at least one receiver.');
    }
    $queues = array_map(queue_of(...), $receivers);
    $db = database();
    setup_transport($db);
    $stop = false;
    if (function_exists('pcntl_signal')) {
        pcntl_async_signals(true);
        pcntl_signal(SIGTERM, function () use (&$stop): void { $stop = true; });
    }
    $say(' [OK] Consuming messages from transport' . (count($queues) > 1 ? 's' : '') . ' "' . implode(', ', $receivers) . '".');
    $started = microtime(true);
    $memory = isset($o['memory-limit']) ? bytes_of($o['memory-limit']) : PHP_INT_MAX;
    $handled = $failed = 0;
    $signal = root() . '/var/cache/prod/pools/workers.restart_requested_timestamp';
    while (!$stop) {
        query($db, "DELETE FROM messenger_messages WHERE delivered_at = '9999-12-31 23:59:59' AND queue_name IN (" . implode(',', array_map($db->quote(...), $queues)) . ')');
        $message = next_message($db, $queues);
        if ($message) {
            $failed += handle($db, $message) ? 0 : 1;
            ++$handled;
        }
        if ($handled >= (int) ($o['limit'] ?? PHP_INT_MAX) || $failed >= (int) ($o['failure-limit'] ?? PHP_INT_MAX)
            || microtime(true) - $started >= (int) ($o['time-limit'] ?? PHP_INT_MAX) || memory_get_usage(true) >= $memory
            || (is_file($signal) && (float) file_get_contents($signal) > $started)) {
            break;
        }
        if (!$message) {
            usleep((int) (((float) ($o['sleep'] ?? 1)) * 1e6));
        }
    }

    return 0;
}

/**
 * Claims the next due message; one left by a dead worker is due again after an hour. As Symfony's worker does, it begins
 * at the first queue each time: of the others it takes none while that has any.
 */
function next_message(PDO $db, array $queues): ?array
{
    foreach ($queues as $queue) {
        if ($message = next_message_of($db, $queue)) {
            return $message;
        }
    }

    return null;
}

function next_message_of(PDO $db, string $queue): ?array
{
    $in = $db->quote($queue);
    $db->beginTransaction();
    $message = query($db, "SELECT * FROM messenger_messages WHERE queue_name = $in AND available_at <= UTC_TIMESTAMP() AND (delivered_at IS NULL OR delivered_at < UTC_TIMESTAMP() - INTERVAL 1 HOUR) ORDER BY available_at LIMIT 1 FOR UPDATE")->fetch() ?: null;
    if ($message) {
        query($db, 'UPDATE messenger_messages SET delivered_at = UTC_TIMESTAMP() WHERE id = ?', [$message['id']]);
    }
    $db->commit();

    return $message;
}

/** Handles a message: one whose body says {"fail": true} is retried later or goes to the failed queue. */
function handle(PDO $db, array $message): bool
{
    $body = json_decode($message['body'], true) ?: [];
    if (empty($body['fail'])) {
        if ($message['queue_name'] !== queue_of('hit')) {
            deliver((string) ($body['to'] ?? '?'));
        }
        query($db, "UPDATE messenger_messages SET delivered_at = '9999-12-31 23:59:59' WHERE id = ?", [$message['id']]);

        return true;
    }
    $p = parameters() + ['messenger_retry_strategy_max_retries' => 3, 'messenger_retry_strategy_delay' => 1000, 'messenger_retry_strategy_multiplier' => 2.0];
    $tries = (int) ($body['tries'] ?? 0);
    $retry = $tries < $p['messenger_retry_strategy_max_retries'];
    if ($retry || $p['messenger_dsn_failed'] !== null) {
        $delay = $retry ? (int) ceil($p['messenger_retry_strategy_delay'] * $p['messenger_retry_strategy_multiplier'] ** $tries / 1000) : 0;
        // It is sent to the queue anew, so that it has a new time; what failed for good is not due anywhere.
        query($db, 'INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at) VALUES (?, ?, ?, UTC_TIMESTAMP(), UTC_TIMESTAMP() + INTERVAL ? SECOND)', [json_encode(['tries' => $tries + 1] + $body), $message['headers'], $retry ? $message['queue_name'] : queue_of('failed'), $delay]);
    }
    query($db, 'DELETE FROM messenger_messages WHERE id = ?', [$message['id']]);
    if (!$retry) {
        // What is tried again is a warning, which production's log leaves out.
        log_line('CRITICAL', 'Error thrown while handling message. Removing from transport', 'messenger');
    }

    return false;
}

function set_up_transports(array $a, array $o, callable $say): int
{
    foreach ($a ?: ['email', 'hit', 'failed'] as $receiver) {
        $dsn = parameters()["messenger_dsn_$receiver"] ?? 'sync://';
        if (str_starts_with($dsn, 'doctrine://')) {
            setup_transport(database());
            $say(" [OK] The \"$receiver\" transport was set up successfully.");
        } else {
            $say(" ! [NOTE] The \"$receiver\" transport does not support setup.");
        }
    }

    return 0;
}

function show_failed(array $a, array $o, callable $say): int
{
    if ((parameters()['messenger_dsn_failed'] ?? null) === null) {
        throw new RuntimeException('No failure transport is configured.');
    }
    $db = database();
    $rows = has_table($db, 'messenger_messages') ? query($db, 'SELECT id, created_at FROM messenger_messages WHERE queue_name = ? LIMIT ' . (int) ($o['max'] ?? 50), [queue_of('failed')])->fetchAll() : [];
    foreach ($rows as $row) {
        $say(sprintf('  %-6s Mautic double message   %s', $row['id'], $row['created_at']));
    }
    if (!$rows) {
        $say(' [OK] No failed messages were found.');
    }

    return 0;
}

/** Tries named messages again; without names it asks of each, which needs somebody to ask. */
function retry_failed(array $ids, array $o, callable $say): int
{
    if (!$ids) {
        throw new RuntimeException('Message id must be passed when in non-interactive mode.');
    }
    $db = database();
    foreach ($ids as $id) {
        $message = query($db, 'SELECT * FROM messenger_messages WHERE id = ? AND queue_name = ?', [$id, queue_of('failed')])->fetch();
        if (!$message) {
            throw new RuntimeException("The message with id \"$id\" was not found.");
        }
        $body = json_decode($message['body'], true) ?: [];
        if (empty($body['fail'])) {
            deliver((string) ($body['to'] ?? '?'));
            query($db, 'DELETE FROM messenger_messages WHERE id = ?', [$id]);
        }
    }
    $say(' [OK] All done!');

    return 0;
}
