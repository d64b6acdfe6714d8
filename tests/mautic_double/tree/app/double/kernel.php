<?php
// Mautic double: what the console and the web share: paths, parameters, database, log, locks, faults.

const BADGE = 'Mautic double';

function root(): string
{
    return dirname(__DIR__, 2);
}

function metadata(): array
{
    return json_decode(file_get_contents(root() . '/app/release_metadata.json'), true);
}

/** The parameters that one file sets in $parameters; [] where there is no such file. */
function parameters_of(string $file): array
{
    $parameters = [];
    if (is_file($file)) {
        include $file;
    }

    return $parameters;
}

/** Defaults, then config/local.php, then config/parameters_local.php, later ones winning. */
function parameters(): array
{
    return array_merge(
        ['messenger_dsn_email' => 'sync://', 'messenger_dsn_hit' => 'sync://', 'messenger_dsn_failed' => null,
            'queue_mode' => 'immediate_process', 'webhook_log_max' => 1000, 'secret_key' => 'temp',
            'trusted_proxies' => [], 'trusted_hosts' => [], 'api_enabled' => false],
        parameters_of(root() . '/config/local.php'),
        parameters_of(root() . '/config/parameters_local.php'),
    );
}

/** The console's idea of "installed": both keys, in local.php itself. */
function is_installed(): bool
{
    $local = parameters_of(root() . '/config/local.php');

    return !empty($local['db_driver']) && !empty($local['site_url']);
}

function write_local(array $parameters): void
{
    $text = "<?php\n\$parameters = array(\n";
    foreach ($parameters as $key => $value) {
        $text .= "\t" . var_export($key, true) . ' => ' . var_export($value, true) . ",\n";
    }
    file_put_contents(root() . '/config/local.php', $text . ");\n");
}

function database(?array $parameters = null): PDO
{
    $p = $parameters ?? parameters();
    $pdo = new PDO(
        sprintf('mysql:host=%s;port=%d;dbname=%s;charset=utf8mb4', $p['db_host'] ?? '', $p['db_port'] ?? 3306, $p['db_name'] ?? ''),
        $p['db_user'] ?? '',
        $p['db_password'] ?? '',
        [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION, PDO::ATTR_DEFAULT_FETCH_MODE => PDO::FETCH_ASSOC, PDO::ATTR_TIMEOUT => 5],
    );
    $pdo->exec("SET time_zone = '+00:00'");

    return $pdo;
}

/** Runs one statement with its values and returns it, for fetch or rowCount. */
function query(PDO $db, string $sql, array $values = []): PDOStatement
{
    $statement = $db->prepare($sql);
    $statement->execute($values);

    return $statement;
}

function has_column(PDO $db, string $table, string $column): bool
{
    return (bool) query($db, 'SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = ? AND column_name = ?', [$table, $column])->fetchColumn();
}

function has_table(PDO $db, string $table): bool
{
    return (bool) query($db, 'SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?', [$table])->fetchColumn();
}

/** Executes the statements of a file made of "…;\n" statements and "--" comment lines. */
function run_sql_file(PDO $db, string $file): void
{
    $sql = preg_replace('/^--.*$/m', '', file_get_contents($file));
    foreach (array_filter(array_map('trim', explode(";\n", $sql))) as $statement) {
        $db->exec(preg_replace('/\)$/', ') ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci', rtrim($statement, ';')));
    }
}

/** One line in a log, as config_prod.php has them: Mautic's own channel has one, all others share the application's. */
function log_line(string $level, string $text, string $channel = 'mautic'): void
{
    $now = new DateTimeImmutable('now', new DateTimeZone('UTC'));
    $line = sprintf("[%s] %s.%s: %s [] []\n", $now->format('Y-m-d\TH:i:s.uP'), $channel, $level, strtr($text, "\n", ' '));
    $directory = root() . '/var/logs';
    $name = $channel === 'mautic' ? 'mautic_prod' : 'prod';
    @mkdir($directory, 0775, true);
    @file_put_contents($directory . "/$name-" . $now->format('Y-m-d') . '.php', $line, FILE_APPEND | LOCK_EX);
}

/** The version without what says that it is a double: plugins are compared with it. */
function core_version(): string
{
    return preg_replace('/\+.*/', '', metadata()['version']);
}

/**
 * The plugins that load, by folder. Each bundle's class is made at each start, of the console and of each page: what
 * breaks in one breaks all of Mautic. One that wants a newer Mautic is passed over; there is no upper limit.
 */
function plugins(): array
{
    static $found = null;
    if ($found !== null) {
        return $found;
    }
    require_once __DIR__ . '/classes.php';
    $found = [];
    foreach (glob(root() . '/plugins/*/*Bundle.php') as $file) {
        $folder = basename(dirname($file));
        $class = "MauticPlugin\\$folder\\" . basename($file, '.php');
        require_once $file;
        if (!class_exists($class, false) || !(new $class() instanceof Mautic\PluginBundle\Bundle\PluginBundleBase)) {
            continue;
        }
        if (defined("$class::MINIMUM_MAUTIC_VERSION") && version_compare(core_version(), constant("$class::MINIMUM_MAUTIC_VERSION"), 'lt')) {
            continue;
        }
        $config = is_file(dirname($file) . '/Config/config.php') ? include dirname($file) . '/Config/config.php' : [];
        $found[$folder] = ['name' => $config['name'] ?? $folder, 'version' => $config['version'] ?? null, 'author' => $config['author'] ?? null];
    }

    return $found;
}

/**
 * The compiled container: built when absent; it freezes the scheme of site_url, and the plugins, until the next
 * cache:clear. One that other code has built, or that knows a plugin which is gone, ends all there is: nobody catches it.
 */
function container(): array
{
    $file = root() . '/var/cache/prod/container.json';
    $plugins = plugins();
    if (!is_file($file)) {
        @mkdir(dirname($file), 0775, true);
        $built = ['version' => metadata()['version'], 'root' => root(), 'plugins' => $plugins, 'scheme' => parse_url(parameters()['site_url'] ?? '', PHP_URL_SCHEME)];
        if (@file_put_contents($file, json_encode($built), LOCK_EX) === false) {
            throw new RuntimeException('Unable to write in the "' . dirname($file) . '" directory.');
        }

        return $built;
    }
    $built = json_decode(file_get_contents($file), true) ?: [];
    if (($built['version'] ?? '') !== metadata()['version'] || ($built['root'] ?? '') !== root()) {
        throw new Error('Class "Mautic\CoreBundle\DependencyInjection\Of' . preg_replace('/\W/', '', $built['version'] ?? 'Before') . '" not found');
    }
    foreach (array_diff_key($built['plugins'], $plugins) as $folder => $_) {
        throw new Error("Class \"MauticPlugin\\$folder\\$folder\" not found");
    }

    return $built;
}

function delete_tree(string $path): void
{
    if (is_dir($path) && !is_link($path)) {
        foreach (array_diff(scandir($path), ['.', '..']) as $name) {
            delete_tree("$path/$name");
        }
        rmdir($path);
    } elseif (file_exists($path) || is_link($path)) {
        unlink($path);
    }
}

/**
 * The faults that config/double.php asks for, under a key: a command's name, or 'web'.
 * ['sleep' => s, 'hang' => true, 'rc' => n, 'log_errors' => n, 'fill_disk_mb' => n, 'drop_database' => true,
 *  'grow_queue' => n]; of doctrine:migrations:migrate also, each after the first statement of one migration (by its
 *  digits): ['fail_migration' => '20250801000000', 'hang_migration' => …, 'fill_migration' => …, 'slow_migration' => …].
 */
function faults(string $key): array
{
    $file = root() . '/config/double.php';

    return is_file($file) ? ((include $file)[$key] ?? []) : [];
}

function apply_faults(array $faults): void
{
    for ($i = 1; $i <= ($faults['log_errors'] ?? 0); ++$i) {
        log_line('ERROR', "Mautic double: injected error $i");
    }
    if (isset($faults['fill_disk_mb'])) {
        $file = fopen(root() . '/var/tmp/double-fill', 'ab');
        for ($i = 0; $i < $faults['fill_disk_mb']; ++$i) {
            fwrite($file, random_bytes(1 << 20));
        }
    }
    if (!empty($faults['drop_database'])) {
        database()->exec('DROP DATABASE `' . parameters()['db_name'] . '`');
    }
    if (isset($faults['grow_queue'])) {
        $db = database();
        setup_transport($db);
        for ($i = 0; $i < $faults['grow_queue']; ++$i) {
            query($db, "INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at) VALUES ('{}', '[]', 'email', UTC_TIMESTAMP(), UTC_TIMESTAMP())");
        }
    }
    sleep($faults['sleep'] ?? 0);
    while (!empty($faults['hang'])) {
        sleep(3600);
    }
}

/** The table of the Doctrine transport, made at its first use as Symfony does. */
function setup_transport(PDO $db): void
{
    $db->exec('CREATE TABLE IF NOT EXISTS messenger_messages (id BIGINT AUTO_INCREMENT NOT NULL, body LONGTEXT NOT NULL, headers LONGTEXT NOT NULL, queue_name VARCHAR(190) NOT NULL, created_at DATETIME NOT NULL, available_at DATETIME NOT NULL, delivered_at DATETIME DEFAULT NULL, INDEX IDX_75EA56E0FB7336F0 (queue_name), INDEX IDX_75EA56E0E3BD61CE (available_at), INDEX IDX_75EA56E016BA31DB (delivered_at), PRIMARY KEY(id)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci');
}
