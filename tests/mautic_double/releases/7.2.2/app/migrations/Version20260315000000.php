<?php
// Mautic double: a column that 7 brings.
return ['sql' => ['ALTER TABLE emails ADD COLUMN is_dynamic TINYINT(1) NOT NULL DEFAULT 0']];
