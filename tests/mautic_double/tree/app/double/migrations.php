<?php
// Mautic double: Doctrine's migrations. Texts and exit codes of doctrine/migrations 3, and of Mautic's own pre-checks.

/** [available, executed] version names, in order. The installer records none, so a fresh install has all of them new. */
function migrations(PDO $db): array
{
    $available = array_map(fn ($file) => 'Mautic\\Migrations\\' . basename($file, '.php'), glob(root() . '/app/migrations/Version*.php'));
    $executed = has_table($db, 'migrations') ? query($db, 'SELECT version FROM migrations ORDER BY version')->fetchAll(PDO::FETCH_COLUMN) : [];

    return [$available, $executed];
}

/** What a migration's file returns: ['sql' => statements, 'skip' => fn (PDO): bool, whether the schema has it already]. */
function migration(string $version): array
{
    return include root() . '/app/migrations/' . substr($version, strlen('Mautic\\Migrations\\')) . '.php';
}

function make_metadata_storage(PDO $db): void
{
    $db->exec('CREATE TABLE IF NOT EXISTS migrations (version VARCHAR(191) NOT NULL, executed_at DATETIME DEFAULT NULL, execution_time INT DEFAULT NULL, PRIMARY KEY(version)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci');
}

function record_migration(PDO $db, string $version, ?int $milliseconds = null): void
{
    if (!has_table($db, 'migrations')) {
        throw new RuntimeException('The metadata storage is not initialized, please run the sync-metadata-storage command to fix this issue.');
    }
    query($db, 'INSERT INTO migrations (version, executed_at, execution_time) VALUES (?, UTC_TIMESTAMP(), ?)', [$version, $milliseconds]);
}

function migrations_status(array $a, array $o, callable $say): int
{
    [$available, $executed] = migrations(database());
    $line = fn ($group, $type, $value) => $say(sprintf('| %-20s | %-20s | %-60s |', $group, $type, $value));
    $line('Storage', 'Type', 'Doctrine\\Migrations\\Metadata\\Storage\\TableMetadataStorageConfiguration');
    $line('Migrations', 'Executed', count($executed));
    $line('', 'Executed Unavailable', count(array_diff($executed, $available)));
    $line('', 'Available', count($available));
    $line('', 'New', count(array_diff($available, $executed)));

    return 0;
}

function migrations_up_to_date(array $a, array $o, callable $say): int
{
    [$available, $executed] = migrations(database());
    $new = count(array_diff($available, $executed));
    $unregistered = count(array_diff($executed, $available));
    if (!$new && !$unregistered) {
        $say(' [OK] Up-to-date! No migrations to execute.');

        return 0;
    }
    if ($new) {
        $say(" [ERROR] Out-of-date! $new migration" . ($new > 1 ? 's are' : ' is') . ' available to execute.');
    }
    if ($unregistered) {
        [$verb, $s] = $unregistered > 1 ? ['are not', 's'] : ['is not a', ''];
        $say(" [ERROR] You have $unregistered previously executed migration$s in the database that $verb registered migration$s.");
    }

    return $unregistered && isset($o['fail-on-unregistered']) ? 2 : ($new ? 1 : 0);
}

function sync_metadata_storage(array $a, array $o, callable $say): int
{
    make_metadata_storage(database());
    $say(' [OK] Metadata storage synchronized');

    return 0;
}

/** Records migrations as done, or as not done, and executes none. */
function mark_migrations(array $a, array $o, callable $say): int
{
    if (!isset($o['add']) && !isset($o['delete'])) {
        throw new RuntimeException('You must specify whether you want to --add or --delete the specified version.');
    }
    if (!isset($a[0]) && !isset($o['all'])) {
        throw new RuntimeException('You must specify the version or use the --all argument.');
    }
    $db = database();
    [$available, $executed] = migrations($db);
    if (!isset($o['all']) && !in_array($a[0], $available, true)) {
        throw new RuntimeException("Could not find migration version {$a[0]}");
    }
    if (!isset($o['all']) && isset($o['add']) && in_array($a[0], $executed, true)) {
        throw new RuntimeException("The version \"{$a[0]}\" already exists in the version table.");
    }
    foreach (isset($o['all']) ? $available : [$a[0]] as $version) {
        if (isset($o['add']) && !in_array($version, $executed, true)) {
            record_migration($db, $version);
            $say(" $version added to the version table.");
        } elseif (isset($o['delete'])) {
            query($db, 'DELETE FROM migrations WHERE version = ?', [$version]);
            $say(" $version deleted from the version table.");
        }
    }

    return 0;
}

/**
 * Executes what is new, each recorded once it is whole. A schema that has it already skips it, and what is skipped is
 * not recorded. MariaDB commits each change of a schema by itself: what fails half way stays half way.
 */
function migrate(array $a, array $o, callable $say): int
{
    if (!isset($o['no-interaction'])) {
        $say('WARNING! You are about to execute a migration in database. Are you sure you wish to continue? (yes/no)');

        return 3;
    }
    $db = database();
    make_metadata_storage($db);
    [$available, $executed] = migrations($db);
    if ($unregistered = count(array_diff($executed, $available))) {
        $say(" [WARNING] You have $unregistered previously executed migrations in the database that are not registered migrations.");
    }
    $new = array_diff($available, $executed);
    if (!$new) {
        $say(' [OK] Already at the latest version ("' . end($available) . '")');

        return 0;
    }
    $say('[notice] Migrating' . (isset($o['dry-run']) ? ' (dry-run)' : '') . ' up to ' . end($available));
    $statements = 0;
    foreach ($new as $version) {
        $began = hrtime(true);
        $migration = migration($version);
        if (isset($migration['skip']) && $migration['skip']($db)) {
            $say("[notice] Migration $version skipped during Pre-Checks. Reason: \"Schema includes this migration\"");
            continue;
        }
        if (!$migration['sql']) {
            $say("[warning] Migration $version was executed but did not result in any SQL statements.");
        }
        if (isset($o['dry-run'])) {
            continue;
        }
        try {
            foreach ($migration['sql'] ?: ['DO 0'] as $number => $sql) {
                $db->exec($sql);
                if ($number === 0) {
                    break_migration($db, $version);
                }
                ++$statements;
            }
        } catch (Throwable $e) {
            fwrite(STDERR, "[error] Migration $version failed during Execution. Error: \"" . $e->getMessage() . "\"\n");
            throw $e;
        }
        record_migration($db, $version, (int) ((hrtime(true) - $began) / 1e6));
    }
    $say('[notice] finished in 1ms, used 4M memory, ' . count($new) . " migrations executed, $statements sql queries");
    $say(' [OK] Successfully migrated to version: ' . end($available));

    return 0;
}

/** The faults of one migration, half way through it. */
function break_migration(PDO $db, string $version): void
{
    $faults = faults('doctrine:migrations:migrate');
    $is = fn (string $fault): bool => isset($faults[$fault]) && str_ends_with($version, $faults[$fault]);
    if ($is('slow_migration')) {
        $db->exec('DO SLEEP(5)');
    }
    if ($is('hang_migration')) {
        apply_faults(['hang' => true]);
    }
    if ($is('fill_migration')) {
        $db->exec('CREATE TABLE double_fill (filled LONGBLOB NOT NULL) ENGINE=InnoDB');
        while (true) {
            query($db, 'INSERT INTO double_fill VALUES (RANDOM_BYTES(1024))');
            $db->exec('INSERT INTO double_fill SELECT CONCAT(filled, RANDOM_BYTES(1024)) FROM double_fill LIMIT 4096');
        }
    }
    if ($is('fail_migration')) {
        throw new RuntimeException(BADGE . ': injected failure, half way.');
    }
}
