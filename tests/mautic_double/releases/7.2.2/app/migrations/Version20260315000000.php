<?php
// Mautic double: columns that 7 brings. What was there before goes on to be sent to newcomers of its segments.
return ['sql' => [
    'ALTER TABLE emails ADD COLUMN is_dynamic TINYINT(1) NOT NULL DEFAULT 0',
    'ALTER TABLE emails ADD COLUMN continue_sending TINYINT(1) NOT NULL DEFAULT 0',
    'UPDATE emails SET continue_sending = 1',
    'ALTER TABLE webhook_queue ADD COLUMN retries SMALLINT UNSIGNED NOT NULL DEFAULT 0',
    'ALTER TABLE webhook_queue ADD COLUMN date_modified DATETIME',
    'ALTER TABLE webhooks ADD COLUMN marked_unhealthy_at DATETIME',
]];
