<?php
// Mautic double: what 5.2.12 brings, an index.
return ['sql' => ['ALTER TABLE audit_log ADD INDEX double_date_added (date_added)']];
