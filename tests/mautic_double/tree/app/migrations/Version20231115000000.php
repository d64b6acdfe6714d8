<?php
// Mautic double: a migration. The installer's schema already holds what it would change.
return [
    'version' => 'Mautic\\Migrations\\Version20231115000000',
    'sql' => [],
];
