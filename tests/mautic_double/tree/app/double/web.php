<?php
// Mautic double: the pages that probes, tenants' visitors and administrators meet.
require __DIR__ . '/kernel.php';
require __DIR__ . '/public.php';

function serve(): void
{
    header('X-Mautic-Double: 1');
    $meta = metadata();
    if (version_compare(PHP_VERSION, $meta['minimum_php_version'], '<') || version_compare(PHP_VERSION, $meta['maximum_php_version'], '>')) {
        respond(500, 'Mautic ' . $meta['version'] . ' does not run on PHP ' . PHP_VERSION . '.', 'text/plain');
    }
    apply_faults(faults('web'));
    $p = parameters();
    $path = preg_replace('#^/index\.php#', '', parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH) ?: '/') ?: '/';
    if (empty($p['site_url'])) {
        $path === '/installer' ? respond(200, page('Installer', '<p>Not installed.</p>')) : redirect('/index.php/installer');
    }
    foreach ($p['trusted_hosts'] as $pattern) {
        $fits = preg_match('{' . $pattern . '}i', host($p)) === 1;
        if ($fits) {
            break;
        }
    }
    if (!($fits ?? true)) {
        log_line('ERROR', 'Untrusted Host "' . host($p) . '".');
        respond(400, 'Untrusted Host.', 'text/plain');
    }
    try {
        container();
        route($path, $p, database());
    } catch (PDOException $e) {
        log_line('CRITICAL', 'Database connection error (code #' . $e->getCode() . '): ' . $e->getMessage());
        respond(500, page('Site is offline', '<p>Site is offline. Database connection error (code #' . (int) $e->getCode() . ').</p>'));
    } catch (Throwable $e) {
        log_line('CRITICAL', 'Uncaught exception: ' . $e->getMessage());
        respond(500, page('Site is offline', '<p>The site is currently offline due to encountering an error.</p>'));
    }
}

function route(string $path, array $p, PDO $db): void
{
    $post = $_SERVER['REQUEST_METHOD'] === 'POST';
    match (true) {
        $path === '/', $path === '/installer' => redirect('/s/dashboard'),
        $path === '/s/login' => login_page($p),
        $path === '/s/login_check' && $post => login_check($p, $db),
        $path === '/s/logout' => logout($p),
        str_starts_with($path, '/s/') => secured($path, $p, $db),
        $path === '/mtc.js' => respond(200, 'var MauticJS = MauticJS || {}; /* ' . BADGE . " */\n", 'application/javascript'),
        $path === '/mtracking.gif' => track($p, $db),
        $path === '/form/submit' && $post => submit_form($p, $db),
        str_starts_with($path, '/api/') => respond($p['api_enabled'] ? 401 : 403, json_encode(['errors' => [['code' => $p['api_enabled'] ? 401 : 403, 'message' => $p['api_enabled'] ? 'Unauthorized' : 'API is disabled.', 'type' => $p['api_enabled'] ? 'access_denied' : 'api_disabled']]]), 'application/json'),
        default => public_page($path, $p, $db),
    };
}

/** What each page links to: compiled files of the release, below media/, where the client's own files lie too. */
const ASSETS = ['css/libraries.css', 'css/app.css', 'js/libraries.js', 'js/app.js'];

function asset_links(): string
{
    $links = '';
    $version = substr(sha1(parameters()['secret_key'] . metadata()['version']), 0, 8);
    foreach (ASSETS as $asset) {
        $links .= str_ends_with($asset, '.css')
            ? "<link rel=\"stylesheet\" href=\"/media/$asset?v$version\" data-source=\"mautic\">\n"
            : "<script src=\"/media/$asset?v$version\" data-source=\"mautic\"></script>\n";
    }

    return $links;
}

function login_page(array $p): void
{
    foreach (version_compare(core_version(), '7', '>=') ? ASSETS : [] as $asset) {
        if (!is_file(root() . "/media/$asset")) {
            throw new RuntimeException("Asset \"$asset\" not found.");
        }
    }
    session($p);
    $_SESSION['csrf'] ??= bin2hex(random_bytes(24));
    $error = htmlspecialchars($_SESSION['error'] ?? '');
    unset($_SESSION['error']);
    respond(200, page('Login', ($error ? "<p class=\"error\">$error</p>" : '') . '
<form method="post" action="/s/login_check">
<label>Username or email <input name="_username" autocomplete="username" required autofocus></label>
<label>Password <input name="_password" type="password" autocomplete="current-password" required></label>
<input type="hidden" name="_csrf_token" value="' . $_SESSION['csrf'] . '">
<button type="submit">Login</button>
</form>'));
}

function login_check(array $p, PDO $db): void
{
    session($p);
    [$name, $password] = [(string) ($_POST['_username'] ?? ''), (string) ($_POST['_password'] ?? '')];
    $user = query($db, 'SELECT * FROM users WHERE is_published = 1 AND (username = ? OR email = ?)', [$name, $name])->fetch();
    $error = match (true) {
        !hash_equals($_SESSION['csrf'] ?? random_bytes(8), (string) ($_POST['_csrf_token'] ?? '')) => 'Invalid CSRF token.',
        !$user || !password_verify($password, $user['password']) => 'Invalid credentials.',
        !is_strong($password) => 'Your password is too weak. Please reset it.',
        default => null,
    };
    if ($error) {
        $_SESSION['error'] = $error;
        redirect('/s/login');
    }
    session_regenerate_id(true);
    $_SESSION['user'] = $user['id'];
    unset($_SESSION['csrf']);
    query($db, 'UPDATE users SET last_login = UTC_TIMESTAMP(), last_active = UTC_TIMESTAMP() WHERE id = ?', [$user['id']]);
    query($db, "INSERT INTO audit_log (user_id, user_name, bundle, object, object_id, action, date_added, ip_address) VALUES (?, ?, 'user', 'security', ?, 'login', UTC_TIMESTAMP(), ?)", [$user['id'], $user['username'], $user['id'], client_address($p)]);
    redirect('/s/dashboard');
}

/** Stands for zxcvbn's score of 3: long, or long enough and mixed, and not made of a few characters. */
function is_strong(string $password): bool
{
    $kinds = preg_match('/[a-z]/', $password) + preg_match('/[A-Z]/', $password) + preg_match('/\d/', $password) + preg_match('/[^a-zA-Z\d]/', $password);

    return strlen(count_chars($password, 3)) >= 7
        && !preg_match('/password|mautic|admin|qwerty|12345/i', $password)
        && (strlen($password) >= 14 || (strlen($password) >= 9 && $kinds >= 3));
}

function logout(array $p): void
{
    session($p);
    session_destroy();
    redirect('/s/login');
}

function secured(string $path, array $p, PDO $db): void
{
    session($p);
    $user = query($db, 'SELECT * FROM users WHERE id = ? AND is_published = 1', [$_SESSION['user'] ?? 0])->fetch();
    if (!$user) {
        redirect('/s/login');
    }
    if ($path !== '/s/dashboard') {
        respond(404, page('Not imitated', '<p>The double has only a dashboard.</p>'));
    }
    query($db, 'UPDATE users SET last_active = UTC_TIMESTAMP() WHERE id = ?', [$user['id']]);
    respond(200, page('Dashboard', '<p>Signed in as <b>' . htmlspecialchars($user['username']) . '</b>.</p>
<p>' . query($db, 'SELECT COUNT(*) FROM leads')->fetchColumn() . ' contacts.</p><p><a href="/s/logout">Logout</a></p>'));
}

/** A hit and its anonymous contact; robots and private addresses leave no trace. */
function track(array $p, PDO $db): void
{
    $agent = $_SERVER['HTTP_USER_AGENT'] ?? '';
    if (is_tracked($p)) {
        $db->beginTransaction();
        $ip = ip_id($db, client_address($p));
        $known = (int) ($_COOKIE['mtc_id'] ?? 0);
        if (!query($db, 'SELECT id FROM leads WHERE id = ?', [$known])->fetch()) {
            query($db, 'INSERT INTO leads (date_added, last_active) VALUES (UTC_TIMESTAMP(), UTC_TIMESTAMP())');
            $known = (int) $db->lastInsertId();
            query($db, 'INSERT IGNORE INTO lead_ips_xref (lead_id, ip_id) VALUES (?, ?)', [$known, $ip]);
        }
        query($db, 'INSERT INTO page_hits (lead_id, ip_id, date_hit, code, url, user_agent, tracking_id) VALUES (?, ?, UTC_TIMESTAMP(), 200, ?, ?, ?)', [$known, $ip, $_SERVER['HTTP_REFERER'] ?? '', $agent, bin2hex(random_bytes(8))]);
        $db->commit();
        setcookie('mtc_id', (string) $known, ['path' => '/', 'secure' => is_secure($p)]);
    }
    respond(200, base64_decode('R0lGODlhAQABAIAAAP///wAAACH5BAEAAAAALAAAAAABAAEAAAICRAEAOw=='), 'image/gif');
}

/** A submission makes or updates a contact; it is acknowledged only when it is committed. */
function submit_form(array $p, PDO $db): void
{
    $fields = (array) ($_POST['mauticform'] ?? []);
    $form = query($db, 'SELECT * FROM forms WHERE id = ? AND is_published = 1', [(int) ($_GET['formId'] ?? $fields['formId'] ?? 0)])->fetch();
    if (!$form) {
        respond(404, page('Form', '<p>The form is unavailable.</p>'));
    }
    $mapped = query($db, "SELECT alias FROM form_fields WHERE form_id = ? AND mapped_object = 'contact' AND mapped_field = 'email'", [$form['id']])->fetchColumn();
    $email = (string) ($fields[$mapped] ?? '');
    if (!filter_var($email, FILTER_VALIDATE_EMAIL)) {
        respond(400, page('Form', "<p>'Email' is required.</p>"));
    }
    $db->beginTransaction();
    $lead = query($db, 'SELECT id FROM leads WHERE email = ? FOR UPDATE', [$email])->fetchColumn();
    if ($lead === false) {
        query($db, 'INSERT INTO leads (date_added, date_identified, last_active, email, firstname, lastname) VALUES (UTC_TIMESTAMP(), UTC_TIMESTAMP(), UTC_TIMESTAMP(), ?, ?, ?)', [$email, $fields['firstname'] ?? null, $fields['lastname'] ?? null]);
        $lead = $db->lastInsertId();
    } else {
        query($db, 'UPDATE leads SET last_active = UTC_TIMESTAMP() WHERE id = ?', [$lead]);
    }
    query($db, 'INSERT INTO form_submissions (form_id, ip_id, lead_id, date_submitted, referer) VALUES (?, ?, ?, UTC_TIMESTAMP(), ?)', [$form['id'], ip_id($db, client_address($p)), $lead, $_SERVER['HTTP_REFERER'] ?? '']);
    $submission = $db->lastInsertId();
    // A table of its own for each form, which its editor makes.
    query($db, "INSERT INTO form_results_{$form['id']}_{$form['alias']} (submission_id, form_id, $mapped) VALUES (?, ?, ?)", [$submission, $form['id'], $email]);
    $db->commit();
    respond(200, empty($fields['messenger']) ? page('Form', '<p>Thank you.</p>') : json_encode(['success' => 1]));
}

function ip_id(PDO $db, string $address): int
{
    $id = query($db, 'SELECT id FROM ip_addresses WHERE ip_address = ? LIMIT 1', [$address])->fetchColumn();
    if ($id === false) {
        query($db, 'INSERT INTO ip_addresses (ip_address) VALUES (?)', [$address]);
        $id = $db->lastInsertId();
    }

    return (int) $id;
}

/** Whether forwarded headers count: only from a proxy that trusted_proxies names. */
function is_forwarded(array $p): bool
{
    return in_array($_SERVER['REMOTE_ADDR'], $p['trusted_proxies'], true);
}

function forwarded(array $p, string $name): ?string
{
    return is_forwarded($p) && isset($_SERVER["HTTP_X_FORWARDED_$name"]) ? trim(explode(',', $_SERVER["HTTP_X_FORWARDED_$name"])[0]) : null;
}

function client_address(array $p): string
{
    return forwarded($p, 'FOR') ?? $_SERVER['REMOTE_ADDR'];
}

/** The host that was asked for, without its port: redirects lose it too. */
function host(array $p): string
{
    return strtolower(preg_replace('/:\d+$/', '', forwarded($p, 'HOST') ?? $_SERVER['HTTP_HOST'] ?? ''));
}

function is_secure(array $p): bool
{
    return (forwarded($p, 'PROTO') ?? (($_SERVER['HTTPS'] ?? '') === 'on' ? 'https' : 'http')) === 'https';
}

/** The cookie is secure when the compiled container says https, whatever the request came by. */
function session(array $p): void
{
    session_name(md5(($p['db_name'] ?? '') . $p['secret_key']));
    session_set_cookie_params(['path' => '/', 'httponly' => true, 'samesite' => 'Lax', 'secure' => container()['scheme'] === 'https']);
    session_start();
}

function redirect(string $path): never
{
    $p = parameters();
    header('Location: ' . (is_secure($p) ? 'https' : 'http') . '://' . host($p) . $path);
    respond(302, '');
}

function respond(int $status, string $body, string $type = 'text/html; charset=UTF-8'): never
{
    http_response_code($status);
    header("Content-Type: $type");
    header('Cache-Control: no-cache, private');
    echo $body;
    exit;
}

function page(string $title, string $body): string
{
    return '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>' . $title . ' | ' . BADGE . '</title>' . asset_links() . '<style>
body{font:16px system-ui,sans-serif;background:#f4f5f9;color:#26283a;display:grid;place-items:center;min-height:100vh;margin:0}
main{background:#fff;padding:2rem 2.5rem;border-radius:10px;box-shadow:0 2px 16px #0002;width:min(22rem,80vw)}
.badge{background:#fdb933;color:#26283a;border-radius:99px;padding:.2rem .7rem;font-weight:600;font-size:.8rem}
label,button{display:block;margin-top:1rem;width:100%}input{box-sizing:border-box;width:100%;padding:.6rem;border:1px solid #c5c8d8;border-radius:6px}
button{padding:.7rem;border:0;border-radius:6px;background:#4e5e9e;color:#fff;font:inherit}.error{color:#b3261e}
</style></head><body><main><span class="badge">' . BADGE . ' ' . metadata()['version'] . '</span><h1>' . $title . '</h1>' . $body . '
<p><small>This stands in for Mautic. It is not Mautic.</small></p></main></body></html>';
}
