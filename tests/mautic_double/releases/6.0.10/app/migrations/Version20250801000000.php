<?php
// Mautic double: what 6.0 brings, in four statements without a pre-check: begun and not ended it cannot be run again.
return ['sql' => [
    'ALTER TABLE campaigns ADD COLUMN uuid CHAR(36) DEFAULT NULL',
    'UPDATE campaigns SET uuid = UUID()',
    'ALTER TABLE forms ADD COLUMN uuid CHAR(36) DEFAULT NULL',
    'UPDATE forms SET uuid = UUID()',
]];
