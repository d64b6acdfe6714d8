<?php
// Mautic double: a table of 6.0, with a pre-check.
return [
    'sql' => ['CREATE TABLE projects (id INT UNSIGNED AUTO_INCREMENT NOT NULL, name VARCHAR(191) NOT NULL, PRIMARY KEY(id)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci'],
    'skip' => fn (PDO $db): bool => has_table($db, 'projects'),
];
