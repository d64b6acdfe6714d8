<?php
// Mautic double: a migration whose pre-check skips it, as the installer's schema holds what it would change.
return ['sql' => ['ALTER TABLE leads ADD COLUMN date_identified DATETIME'], 'skip' => fn (PDO $db): bool => has_column($db, 'leads', 'date_identified'), 'schema' => []];
