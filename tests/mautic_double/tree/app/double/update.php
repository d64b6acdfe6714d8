<?php
// Mautic double: mautic:update:apply, in its two stages. With a package it checks nothing, and takes the package away.

function update(array $a, array $o, callable $say): int
{
    if (isset($o['finish'])) {
        return finish_update($say);
    }
    if (!isset($o['update-package'])) {
        $say('You are using the latest version.');

        return 1;
    }
    $package = $o['update-package'];
    $zip = new ZipArchive();
    if ($zip->open($package) !== true) {
        $say('The update package could not be opened.');

        return 1;
    }
    if (!isset($o['force'])) {
        $say('Are you sure you want to update Mautic to the latest version? (y/n)');

        return 0;
    }
    $zip->extractTo(root());
    $zip->close();
    unlink($package);
    $deleted = root() . '/deleted_files.txt';
    foreach (is_file($deleted) ? json_decode(file_get_contents($deleted), true) : [] as $file) {
        delete_tree(root() . '/' . $file);
    }
    @unlink($deleted);
    delete_tree(root() . '/var/cache/prod');
    $say('IMPORTANT: Run the same command again with --finish to complete the update process.');

    return 0;
}

function finish_update(callable $say): int
{
    try {
        $code = migrate([], ['no-interaction' => true], fn (string $text) => null);
    } catch (Throwable $e) {
        log_line('CRITICAL', 'Error thrown while updating the database. Message: "' . $e->getMessage() . '"');
        $code = 1;
    }
    if ($code !== 0) {
        $say('An error occurred while updating the database. Check the log.');

        return 1;
    }
    $say('Success! You are now running version ' . metadata()['version'] . ' of Mautic.');

    return 0;
}
