<?php
// Mautic double: the only file that the web server runs.
require __DIR__ . '/app/double/web.php';
serve();
