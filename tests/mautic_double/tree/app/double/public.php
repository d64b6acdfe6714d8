<?php
// Mautic double: what visitors see beside the login page: a form, landing pages, downloads, the link of a mail.

/** Whatever stands at a path that nothing else has. */
function public_page(string $path, array $p, PDO $db): never
{
    match (true) {
        preg_match('#^/form/(\d+)$#', $path, $found) === 1 => form_page($db, (int) $found[1]),
        preg_match('#^/asset/(\d+):#', $path, $found) === 1 => asset_file($p, $db, (int) $found[1]),
        preg_match('#^/email/unsubscribe/([^/]+)$#', $path, $found) === 1 => unsubscribe_page($db, $found[1]),
        default => landing_page($p, $db, rawurldecode(substr($path, 1))),
    };
}

function form_page(PDO $db, int $id): never
{
    $form = query($db, 'SELECT * FROM forms WHERE id = ? AND is_published = 1', [$id])->fetch() ?: missing();
    $inputs = '';
    foreach (query($db, 'SELECT * FROM form_fields WHERE form_id = ? ORDER BY field_order', [$id]) as $field) {
        $inputs .= '<label>' . htmlspecialchars($field['label']) . ' <input name="mauticform[' . htmlspecialchars($field['alias']) . ']"></label>';
    }
    respond(200, page(htmlspecialchars($form['name']), "<form method=\"post\" action=\"/form/submit?formId=$id\">$inputs<button>Submit</button></form>"));
}

/** A download is counted, whoever asks: until 7 nothing but a session of a user keeps it from that. */
function asset_file(array $p, PDO $db, int $id): never
{
    $asset = query($db, 'SELECT * FROM assets WHERE id = ? AND is_published = 1', [$id])->fetch() ?: missing();
    query($db, 'UPDATE assets SET download_count = download_count + 1 WHERE id = ?', [$id]);
    respond(200, 'A download of ' . BADGE . ': ' . $asset['title'] . "\n", 'text/plain; charset=UTF-8');
}

/** The link in a mail: to ask for it is to unsubscribe. What was never sent is answered as well. */
function unsubscribe_page(PDO $db, string $hash): never
{
    $stat = query($db, 'SELECT * FROM email_stats WHERE tracking_hash = ?', [$hash])->fetch();
    if (!$stat) {
        respond(200, page('Unsubscribe', '<p>Record not found.</p>'));
    }
    if (!query($db, "SELECT id FROM lead_donotcontact WHERE lead_id = ? AND channel = 'email'", [$stat['lead_id']])->fetch()) {
        query($db, "INSERT INTO lead_donotcontact (lead_id, date_added, reason, channel, channel_id) VALUES (?, UTC_TIMESTAMP(), 1, 'email', ?)", [$stat['lead_id'], $stat['email_id']]);
    }
    respond(200, page('Unsubscribe', '<p>We are sorry to see you go! ' . htmlspecialchars($stat['email_address']) . ' will no longer receive emails from us.</p>'));
}

function landing_page(array $p, PDO $db, string $alias): never
{
    $found = query($db, 'SELECT * FROM pages WHERE alias = ? AND is_published = 1 AND COALESCE(is_preference_center, 0) = 0', [$alias])->fetch() ?: missing();
    if (is_tracked($p)) {
        query($db, 'INSERT INTO page_hits (date_hit, code, url, user_agent, tracking_id) VALUES (UTC_TIMESTAMP(), 200, ?, ?, ?)', ["/$alias", $_SERVER['HTTP_USER_AGENT'] ?? '', bin2hex(random_bytes(8))]);
    }
    respond(200, $found['custom_html'] ?: page(htmlspecialchars($found['title']), ''));
}

/** Whether a visitor leaves a trace: no robot, and of a public address. */
function is_tracked(array $p): bool
{
    $public = filter_var(client_address($p), FILTER_VALIDATE_IP, FILTER_FLAG_NO_PRIV_RANGE | FILTER_FLAG_NO_RES_RANGE);

    return $public && !preg_match('/curl|wget|python-requests|bot|^$/i', $_SERVER['HTTP_USER_AGENT'] ?? '');
}

function missing(): never
{
    respond(404, page('Not found', '<p>The requested page was not found.</p>'));
}
