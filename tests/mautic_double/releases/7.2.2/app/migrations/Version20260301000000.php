<?php
// Mautic double: what 7 brings and 6.0 has had since: its pre-check skips it after an upgrade, and it stays new.
return [
    'sql' => ['CREATE TABLE projects (id INT UNSIGNED AUTO_INCREMENT NOT NULL, name VARCHAR(191) NOT NULL, PRIMARY KEY(id)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci'],
    'skip' => fn (PDO $db): bool => has_table($db, 'projects'),
    'schema' => [],
];
