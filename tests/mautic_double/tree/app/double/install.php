<?php
// Mautic double: mautic:install, with its traps: 0 when it refuses, tables dropped, site_url set beforehand.

/** Returns the exit code as PHP's exit() takes it: negative ones wrap to 255, 254, 253. */
function install(array $arguments, array $options, callable $say): int
{
    if (is_installed()) {
        $say('Mautic already installed');

        return 0;
    }
    $say('Mautic Install');
    $say('==============');
    $say('Parsing options and arguments...');
    $file = parameters_of(root() . '/config/local.php');
    $database = array_filter($options + $file, fn ($key) => str_starts_with($key, 'db_'), ARRAY_FILTER_USE_KEY)
        + ['db_driver' => 'pdo_mysql', 'db_host' => 'localhost', 'db_port' => '3306', 'db_table_prefix' => '', 'db_name' => '', 'db_user' => '', 'db_password' => ''];
    // The absent option counts as "no", whatever the file says.
    $database['db_backup_tables'] = !empty($options['db_backup_tables']);
    $database['db_backup_prefix'] ??= 'bak_';
    $admin = array_filter($options + $file, fn ($key) => str_starts_with($key, 'admin_'), ARRAY_FILTER_USE_KEY)
        + ['admin_firstname' => 'Admin', 'admin_lastname' => 'Mautic', 'admin_username' => 'admin', 'admin_email' => '', 'admin_password' => ''];
    $site = !empty($file['site_url']) ? $file['site_url'] : $arguments[0];

    $step = (float) ($arguments[1] ?? 0);
    if ($step < 1) {
        $say('0 - Checking installation requirements...');
        $missing = $optional = [];
        foreach (['config', 'var/cache', 'var/logs'] as $directory) {
            @mkdir(root() . "/$directory", 0775, true);
            if (!is_writable(root() . "/$directory")) {
                $missing[] = root() . "/$directory is not writable.";
            }
        }
        if (parse_url($site, PHP_URL_SCHEME) !== 'https') {
            $optional[] = 'Your site is not on https.';
        }
        if ($missing) {
            $say('Missing requirements:');
            array_map(fn ($text) => $say("  - $text"), $missing);
            $say('Install canceled');

            return 0;
        }
        if ($optional) {
            $say('Missing optional settings:');
            array_map(fn ($text) => $say("  - $text"), $optional);
            if (empty($options['force'])) {
                $say('Continue with install anyway? [yes/no]');

                return 0;
            }
        }
        $say('Ready to Install!');
    }
    if ($step < 2) {
        $say('1 - Creating database...');
        try {
            if (!empty($database['db_table_prefix'])) {
                throw new RuntimeException(BADGE . ': a table prefix is not imitated.');
            }
            $db = database($database);
        } catch (Exception $e) {
            $say('Errors in database configuration/installation:');
            $say('  - ' . $e->getMessage());
            $say('Install canceled');

            return -1;
        }
        write_local($database + $file + ['secret_key' => bin2hex(random_bytes(32))]);
        $say('1.1 - Creating schema...');
        if (is_installed()) {
            $say('Errors in database configuration/installation:');
            $say('  - Mautic is already installed.');
            $say('Install canceled');

            return -1;
        }
        make_room($db, $database);
        run_sql_file($db, __DIR__ . '/schema.sql');
        // The schema of a fresh install is that of its entities: it has what all migrations bring, and records none.
        foreach (migrations($db)[0] as $version) {
            array_map($db->exec(...), migration($version)['schema'] ?? migration($version)['sql']);
        }
        $say('1.2 - Loading fixtures...');
        query($db, "INSERT INTO roles (id, name, description, is_admin, date_added) VALUES (1, 'Administrator', 'Full system access', 1, UTC_TIMESTAMP())");
    }
    if ($step < 3) {
        $say('2 - Creating admin user...');
        $wrong = [];
        if (!filter_var($admin['admin_email'], FILTER_VALIDATE_EMAIL)) {
            $wrong[] = 'email: A valid email is required.';
        }
        if (strlen($admin['admin_password']) < 6) {
            $wrong[] = 'password: Password is required, at least 6 characters.';
        }
        if ($wrong) {
            $say('Errors in admin user configuration/installation:');
            array_map(fn ($text) => $say("  - $text"), $wrong);
            $say('Install canceled');

            return -2;
        }
        query($db ?? database($database), 'REPLACE INTO users (id, role_id, date_added, username, password, first_name, last_name, email) VALUES (1, 1, UTC_TIMESTAMP(), ?, ?, ?, ?, ?)', [
            $admin['admin_username'], password_hash($admin['admin_password'], PASSWORD_BCRYPT, ['cost' => 12]),
            $admin['admin_firstname'], $admin['admin_lastname'], $admin['admin_email'],
        ]);
    }
    $say('3 - Final steps...');
    if (!is_writable(root() . '/config/local.php')) {
        $say('Errors in final step:');
        $say('  - config/local.php is not writable.');
        $say('Install canceled');

        return -3;
    }
    // The file is rewritten from what it held, admin_* and all. No migrations table is made.
    write_local(parameters_of(root() . '/config/local.php') + ['site_url' => rtrim($site, '/')]);
    delete_tree(root() . '/var/cache/prod');
    $say('');
    $say('================');
    $say('Install complete');
    $say('================');

    return 0;
}

/** Drops Mautic's tables, or renames them where --db_backup_tables was given. */
function make_room(PDO $db, array $database): void
{
    $statements = array_map(fn ($version) => implode("\n", migration($version)['sql']), migrations($db)[0]);
    preg_match_all('/^CREATE TABLE (\w+)/m', file_get_contents(__DIR__ . '/schema.sql') . implode("\n", $statements), $match);
    $db->exec('SET FOREIGN_KEY_CHECKS = 0');
    foreach ($match[1] as $table) {
        if ($database['db_backup_tables'] && has_table($db, $table)) {
            $db->exec("DROP TABLE IF EXISTS {$database['db_backup_prefix']}$table");
            $db->exec("RENAME TABLE $table TO {$database['db_backup_prefix']}$table");
        }
        $db->exec("DROP TABLE IF EXISTS $table");
    }
    $db->exec('SET FOREIGN_KEY_CHECKS = 1');
}
