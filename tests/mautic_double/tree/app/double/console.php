<?php
// Mautic double: the console. Names, options, texts and exit codes as an operator meets them in Mautic.
require __DIR__ . '/kernel.php';
require __DIR__ . '/install.php';
require __DIR__ . '/commands.php';
require __DIR__ . '/migrations.php';
require __DIR__ . '/update.php';

/** Runs one command line and returns its exit code. Every line goes out with a time under -n, as in Mautic. */
function console(array $words): int
{
    $timed = (bool) array_intersect(['-n', '--no-interaction'], $words);
    $say = function (string $text) use ($timed): void {
        fwrite(STDOUT, ($timed ? date('[Y-m-d H:i:s] ') : '') . $text . "\n");
    };
    try {
        // It boots whatever is asked for. What breaks that is caught by nobody, and PHP ends with 255.
        container();
    } catch (RuntimeException $e) {
        fwrite(STDERR, "\n  " . $e->getMessage() . "  \n\n");

        return 1;
    }
    try {
        if (array_intersect(['--version', '-V'], $words)) {
            $say('Mautic ' . metadata()['version'] . ' - app/prod (env: prod, debug: false)');

            return 0;
        }
        $name = $words ? array_shift($words) : 'list';
        while (str_starts_with($name, '-') && $words) {
            $words[] = $name;
            $name = array_shift($words);
        }
        if ($name === 'list') {
            array_map($say, array_keys(commands()));

            return 0;
        }
        $command = commands()[aliases()[$name] ?? $name] ?? null;
        if ($command === null) {
            throw new InvalidArgumentException("Command \"$name\" is not defined.");
        }
        $name = aliases()[$name] ?? $name;
        [$arguments, $options] = parse($name, $command, $words);
    } catch (InvalidArgumentException $e) {
        fwrite(STDERR, "\n  " . $e->getMessage() . "  \n\n");

        return 1;
    }

    try {
        $code = run($name, $command, $arguments, $options, $say);
    } catch (Throwable $e) {
        // Those two catch it themselves in production: only Mautic's own log knows.
        $caught = in_array($name, ['mautic:campaigns:update', 'mautic:campaigns:trigger'], true);
        log_line('CRITICAL', "Error thrown while running command \"$name\". Message: \"" . $e->getMessage() . '"', $caught ? 'mautic' : 'console');
        if ($caught) {
            return 0;
        }
        fwrite(STDERR, "\n  " . $e->getMessage() . "  \n\n" . usage($name, $command) . "\n\n");
        $code = 1;
    }
    if ($code !== 0) {
        log_line('ERROR', "Command `$name` exited with status code " . ($code & 255));
    }

    return $code & 255;
}

/** What Symfony's console says after each error, last of all. */
function usage(string $name, array $command): string
{
    $words = [$name];
    foreach ($command['options'] ?? [] as $option) {
        [$long, $short] = explode('|', rtrim($option, '=')) + [1 => ''];
        $words[] = '[' . ($short ? "-$short|" : '') . "--$long" . (str_ends_with($option, '=') ? ' ' . strtoupper($long) : '') . ']';
    }

    return implode(' ', [...$words, '[--]', '[<version>]']);
}

function run(string $name, array $command, array $arguments, array $options, callable $say): int
{
    $faults = faults($name);
    $lock = null;
    if (isset($command['key']) && !isset($options['bypass-locking']) && !isset($options['force'])) {
        $lock = take_lock($name . $command['key']($options));
        if ($lock === null) {
            $say('Script in progress. Can be forced with --bypass-locking.');

            return 0;
        }
    }
    try {
        apply_faults($faults);

        return $faults['rc'] ?? $command['run']($arguments, $options, $say);
    } finally {
        if ($lock !== null) {
            unlink($lock);
        }
    }
}

/** Takes the PID lock of a key and returns its file, or null while a process of that id lives, whichever it is. */
function take_lock(string $key): ?string
{
    $directory = root() . '/var/cache/run';
    @mkdir($directory, 0775, true);
    $file = sprintf('%s/sf.%s.%s.lock', $directory, preg_replace('/[^a-z0-9\._-]+/i', '-', $key), hash('sha256', $key));
    $holder = is_file($file) ? (int) file_get_contents($file) : 0;
    if ($holder > 0 && posix_getpgid($holder) !== false) {
        return null;
    }
    file_put_contents($file, (string) getmypid());

    return $file;
}

/** Returns [arguments, options by long name]; an option without a value is true. */
function parse(string $name, array $command, array $words): array
{
    $flags = ['no-interaction', 'no-ansi', 'ansi', 'quiet', 'verbose', 'no-debug'];
    $values = ['env'];
    $short = ['n' => 'no-interaction', 'q' => 'quiet', 'v' => 'verbose', 'e' => 'env'];
    foreach ($command['options'] ?? [] as $spelling) {
        $value = str_ends_with($spelling, '=');
        $parts = explode('|', rtrim($spelling, '='));
        $value ? $values[] = $parts[0] : $flags[] = $parts[0];
        if (isset($parts[1])) {
            $short[$parts[1]] = $parts[0];
        }
    }
    $arguments = $options = [];
    while ($words) {
        $word = array_shift($words);
        if (!str_starts_with($word, '-') || $word === '-') {
            $arguments[] = $word;
            continue;
        }
        if (str_starts_with($word, '--')) {
            [$long, $value] = explode('=', substr($word, 2), 2) + [1 => null];
            if (!in_array($long, $flags, true) && !in_array($long, $values, true)) {
                throw new InvalidArgumentException("The \"--$long\" option does not exist.");
            }
        } else {
            $long = $short[$word[1]] ?? throw new InvalidArgumentException("The \"-{$word[1]}\" option does not exist.");
            $value = strlen($word) > 2 ? ltrim(substr($word, 2), '=') : null;
        }
        if (in_array($long, $values, true)) {
            $value ??= array_shift($words) ?? throw new InvalidArgumentException("The \"--$long\" option requires a value.");
        } elseif ($value !== null && str_starts_with($word, '--')) {
            throw new InvalidArgumentException("The \"--$long\" option does not accept a value.");
        }
        $options[$long] = $value ?? true;
    }
    [$least, $most] = $command['arguments'] ?? [0, 0];
    if (count($arguments) < $least) {
        throw new InvalidArgumentException('Not enough arguments.');
    }
    if (count($arguments) > $most) {
        throw new InvalidArgumentException("Too many arguments to \"$name\" command.");
    }

    return [$arguments, $options];
}
