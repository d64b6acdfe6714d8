"""What the bot relies on in Mautic: checks to run in an open tenant, whether it has the double or a real Mautic.

Each check takes an `Execute`, which runs a program as root inside the tenant, and fails by AssertionError. They write
to the tenant's database, so the tenant must be one that will be deleted.
"""

import hashlib
import json
import re
from collections.abc import Callable

from bot.guest.blueprint.mautic_ctl import due
from bot.guest.blueprint.mautic_ctl.pages import NOBODY

Execute = Callable[[list[str]], tuple[int, str, str]]
"""Runs argv as root in the tenant and returns (exit code, standard output, standard error)."""

ROOT = "/var/www/mautic"
AS_WWW_DATA = "setpriv --reuid=www-data --regid=www-data --clear-groups"
CRON_COMMANDS = (
    "mautic:segments:update",
    "mautic:campaigns:update",
    "mautic:campaigns:trigger",
    "mautic:messages:send",
    "mautic:broadcasts:send",
    "mautic:import",
    "mautic:contacts:scheduled_export",
    "mautic:reports:scheduler",
    "mautic:webhooks:process",
    "mautic:webhooks:delete_logs",
    "mautic:contacts:cleanup_exported_files",
    "mautic:unusedip:delete",
    "mautic:iplookup:download",
)


def console(execute: Execute, *words: str) -> tuple[int, str, str]:
    """Run one of Mautic's commands as the web server's user."""
    argv = ["runuser", "-u", "www-data", "--", "php8.2", f"{ROOT}/bin/console", *words, "-n", "--no-ansi"]
    return execute(argv)


def sql(execute: Execute, statement: str) -> list[list[str]]:
    """Run SQL as the database's root and return the rows."""
    code, output, errors = execute(["mariadb", "--batch", "--skip-column-names", "mautic", "-e", statement])
    assert code == 0, errors
    return [line.split("\t") for line in output.splitlines()]


def http(execute: Execute, path: str, *curl: str) -> tuple[int, dict[str, str], str]:
    """Ask nginx from inside as the edge would, and return (status, headers by lower-case name, body)."""
    domain = json.loads(execute(["cat", "/var/lib/mautic-ops/identity.json"])[1])["domain"]
    forwarded = ["-H", "X-Forwarded-Proto: https"]
    place = ["--unix-socket", "/run/nginx-inside.sock", f"http://{domain}{path}"]
    code, output, errors = execute(["curl", "-sS", "-i", *forwarded, *curl, *place])
    assert code == 0, errors
    head, _, body = output.replace("\r\n", "\n").partition("\n\n")
    status, *lines = head.splitlines()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(status.split()[1]), headers, body


def login(execute: Execute, username: str, password: str) -> str:
    """Log in as a browser does and return the path of the redirect: /s/dashboard, or /s/login if refused."""
    _, headers, page = http(execute, "/s/login")
    cookie = headers["set-cookie"].split(";")[0]
    token = re.search(r'name="_csrf_token" value="([^"]+)"', page)
    assert token, "the login page has no _csrf_token"
    fields = {"_username": username, "_password": password, "_csrf_token": token[1]}
    data = [word for name, value in fields.items() for word in ("--data-urlencode", f"{name}={value}")]
    status, headers, _ = http(execute, "/s/login_check", "-H", f"Cookie: {cookie}", *data)
    assert status == 302, f"/s/login_check answered {status}"
    return re.sub(r"^https?://[^/]+", "", headers["location"])


def check_version(execute: Execute) -> None:
    code, output, _ = console(execute, "--version")
    assert code == 0
    assert re.search(r"Mautic \S+ - app/prod \(env: prod, debug: false\)", output), output


def check_second_install_does_nothing_and_ends_with_zero(execute: Execute) -> None:
    code, output, _ = console(execute, "mautic:install", "https://another.invalid")
    assert (code, "Mautic already installed" in output) == (0, True), output


def check_unknown_words_end_with_one_on_stderr(execute: Execute) -> None:
    for words in (["mautic:no:such"], ["mautic:import", "--no-such-option"]):
        code, _, errors = console(execute, *words)
        assert code == 1, words
        assert errors.strip(), words


def check_output_is_timed(execute: Execute) -> None:
    _, output, _ = console(execute, "mautic:plugins:reload")
    assert re.search(r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] ", output, re.MULTILINE), output
    assert re.search(r"\d+ new plugins were installed and \d+ updated", output), output


def check_cron_commands_end_with_zero(execute: Execute) -> None:
    for command in CRON_COMMANDS:
        code, output, errors = console(execute, command)
        assert code == 0, (command, output, errors)


def check_segments_update_leaves_a_date(execute: Execute) -> None:
    sql(
        execute,
        "INSERT INTO lead_lists SET is_published = 1, name = 'contract', public_name = 'contract', alias = 'contract',"
        " filters = 'a:0:{}', is_global = 1, is_preference_center = 0, date_added = UTC_TIMESTAMP()",
    )
    assert console(execute, "mautic:segments:update")[0] == 0
    assert sql(execute, "SELECT COUNT(*) FROM lead_lists WHERE alias = 'contract' AND last_built_date IS NULL") == [
        ["0"]
    ]
    sql(execute, "DELETE FROM lead_lists WHERE alias = 'contract'")
    assert console(execute, "mautic:segments:update", "--list-id=999999")[0] == 1


def check_a_live_pid_in_the_lock_stops_a_command_silently(execute: Execute) -> None:
    name = "mautic:messages:send"
    run = f"{ROOT}/var/cache/run"
    lock = f"{run}/sf.mautic-messages-send.{hashlib.sha256(name.encode()).hexdigest()}.lock"

    def hold(pid: int) -> None:
        code, _, errors = execute(["sh", "-c", f"{AS_WWW_DATA} sh -c 'mkdir -p {run} && echo {pid} >{lock}'"])
        assert code == 0, errors

    hold(1)
    code, output, _ = console(execute, name)
    assert (code, "Script in progress" in output) == (0, True), output
    assert "Script in progress" not in console(execute, name, "--bypass-locking")[1]
    hold(999999)
    assert "Script in progress" not in console(execute, name)[1]
    execute(["rm", "-f", lock])


def check_cache_clear_makes_the_cache_anew(execute: Execute) -> None:
    old = f"{ROOT}/var/cache/prod/contract-left-over"
    execute(["runuser", "-u", "www-data", "--", "touch", old])
    assert console(execute, "cache:clear")[0] == 0
    assert execute(["test", "-e", old])[0] == 1
    assert execute(["test", "-d", f"{ROOT}/var/cache/prod"])[0] == 0
    assert console(execute, "mautic:cache:clear")[0] == 0


def migration_figures(execute: Execute) -> dict[str, int]:
    """Return the figures of doctrine:migrations:status: Executed, Available, New."""
    code, output, _ = console(execute, "doctrine:migrations:status")
    assert code == 0
    return {name: int(n) for name, n in re.findall(r"\|\s*(Executed|Available|New)\s*\|\s*(\d+)\s*\|", output)}


def check_the_blueprint_has_recorded_its_migrations(execute: Execute) -> None:
    """Mautic's installer should record them and does not. A recorded migration does not run at the first upgrade."""
    figures = migration_figures(execute)
    assert figures["Executed"] == figures["Available"] > 0 == figures["New"], figures
    assert console(execute, "doctrine:migrations:up-to-date")[0] == 0


def check_without_their_table_all_migrations_are_new_until_they_are_recorded(execute: Execute) -> None:
    sql(execute, "DROP TABLE migrations")
    figures = migration_figures(execute)
    assert figures["New"] == figures["Available"] > 0 == figures["Executed"], figures
    code, output, _ = console(execute, "doctrine:migrations:up-to-date")
    assert (code, f"{figures['New']} migrations are available" in output) == (1, True), output
    assert console(execute, "doctrine:migrations:version", "--add", "--all")[0] != 0, "there is no table to write into"
    assert console(execute, "doctrine:migrations:sync-metadata-storage")[0] == 0
    assert console(execute, "doctrine:migrations:version", "--add", "--all")[0] == 0
    assert migration_figures(execute)["New"] == 0
    assert console(execute, "doctrine:migrations:up-to-date")[0] == 0
    assert console(execute, "doctrine:migrations:migrate")[0] == 0
    one = sql(execute, "SELECT REPLACE(MAX(version), '\\\\', '/') FROM migrations")[0][0].replace("/", "\\")
    assert console(execute, "doctrine:migrations:version", one, "--add")[0] == 1, "it is recorded already"
    rows = len(sql(execute, "SELECT version FROM migrations"))
    assert console(execute, "doctrine:migrations:version", one, "--delete")[0] == 0
    assert console(execute, "doctrine:migrations:up-to-date")[0] == 1
    assert console(execute, "doctrine:migrations:version", one, "--add")[0] == 0
    assert len(sql(execute, "SELECT version FROM migrations")) == rows


def check_what_the_login_page_links_to_is_there(execute: Execute) -> None:
    links = re.findall(r"""(?:href|src)=["'](/media/[^"'?]+\.(?:css|js))""", http(execute, "/s/login")[2])
    assert {link.rpartition(".")[2] for link in links} == {"css", "js"}, links
    for link in links:
        assert http(execute, link)[0] == 200, link
        assert execute(["test", "-s", f"{ROOT}{link}"])[0] == 0, "it is a file of the release below media/"


PLUGIN = """<?php
namespace MauticPlugin\\{name};
use Mautic\\PluginBundle\\Bundle\\PluginBundleBase;
class {name} extends PluginBundleBase {{ {body} }}
"""


def add_plugin(execute: Execute, name: str, body: str = "", *, root: str = ROOT) -> None:
    """Put a plugin of version 1.5 into a tree; `body` is the body of its bundle's class."""
    code = PLUGIN.format(name=name, body=body)
    config = f"<?php return ['name' => '{name}', 'description' => '', 'version' => '1.5', 'author' => 'contract'];\n"
    folder = f"{root}/plugins/{name}"
    lay = 'mkdir -p "$1/Config" && printf "%s" "$2" >"$1/$4.php" && printf "%s" "$3" >"$1/Config/config.php"'
    ended = execute(["sh", "-euc", lay, "sh", folder, code, config, name])
    assert ended[0] == 0, ended


def remove_plugin(execute: Execute, name: str) -> None:
    """Delete a plugin's folder, and the cache: with a plugin that breaks, no command of Mautic's could clear it."""
    execute(["rm", "-rf", f"{ROOT}/plugins/{name}", f"{ROOT}/var/cache/prod"])


def plugins(execute: Execute, name: str) -> list[list[str]]:
    """Return (version, is_missing) of the plugins of this name that Mautic knows."""
    return sql(execute, f"SELECT version, is_missing FROM plugins WHERE bundle = '{name}'")


def check_a_plugin_is_loaded_with_a_new_cache_and_is_missing_when_it_is_gone(execute: Execute) -> None:
    name = "ContractBundle"
    try:
        add_plugin(execute, name)
        assert console(execute, "cache:clear")[0] == 0
        assert console(execute, "mautic:plugins:reload")[0] == 0
        assert plugins(execute, name) == [["1.5", "0"]]
    finally:
        remove_plugin(execute, name)
    assert console(execute, "mautic:plugins:reload")[0] == 0
    assert plugins(execute, name) == [["1.5", "1"]]
    sql(execute, f"DELETE FROM plugins WHERE bundle = '{name}'")


def check_a_plugin_that_wants_a_newer_mautic_is_passed_over(execute: Execute) -> None:
    name = "ContractNewerBundle"
    try:
        add_plugin(execute, name, "const MINIMUM_MAUTIC_VERSION = '99.0.0';")
        assert console(execute, "cache:clear")[0] == 0
        assert console(execute, "mautic:plugins:reload")[0] == 0
        assert plugins(execute, name) == []
    finally:
        remove_plugin(execute, name)
        console(execute, "cache:clear")


def check_a_plugin_that_breaks_ends_every_command_and_every_page(execute: Execute) -> None:
    name = "ContractBrokenBundle"
    try:
        add_plugin(execute, name, "public function __construct() { new \\No\\Such\\Thing(); }")
        for words in (["--version"], ["cache:clear"], ["doctrine:migrations:status"]):
            assert console(execute, *words)[0] != 0, words
        assert http(execute, "/s/login")[0] == 500
    finally:
        remove_plugin(execute, name)
    assert console(execute, "--version")[0] == 0
    assert http(execute, "/s/login")[0] == 200


def check_workers_end_with_zero_when_told_to(execute: Execute) -> None:
    assert console(execute, "messenger:consume", "email", "--time-limit=1")[0] == 0
    consume = f"{AS_WWW_DATA} php8.2 {ROOT}/bin/console messenger:consume email -n --no-ansi"
    _, output, errors = execute(["sh", "-c", f"{consume} & sleep 3; kill $!; wait $!; echo ended with $?"])
    assert "ended with 0" in output, (output, errors)
    code, output, errors = console(execute, "messenger:stop-workers")
    assert code == 0, (output, errors)
    code, _, errors = console(execute, "messenger:consume", "no-such-receiver")
    assert (code, "does not exist" in errors) == (1, True), errors
    assert console(execute, "messenger:failed:show")[0] == 0


def check_update_find_is_always_zero(execute: Execute) -> None:
    assert console(execute, "mautic:update:find")[0] == 0


def check_pages_of_an_open_tenant(execute: Execute) -> None:
    status, headers, _ = http(execute, "/")
    assert (status, headers["location"].startswith("https://")) == (302, True), headers
    status, headers, page = http(execute, "/s/login")
    assert status == 200
    assert 'name="_username"' in page
    assert "secure" in headers["set-cookie"].lower()
    status, headers, body = http(execute, "/mtc.js")
    assert (status, "javascript" in headers["content-type"], "MauticJS" in body) == (200, True, True)
    status, headers, _ = http(execute, "/mtracking.gif", "-o", "/dev/null", "-D", "-")
    assert (status, headers["content-type"]) == (200, "image/gif")
    assert http(execute, "/api/contacts")[0] == 403
    assert http(execute, "/s/dashboard")[1]["location"].endswith("/s/login")
    assert http(execute, "/s/login", "-H", "Host: another.invalid")[0] == 400
    for hidden in ("/installer", "/config/local.php", "/app/release_metadata.json", "/composer.json", "/.env"):
        assert http(execute, hidden)[0] == 404, hidden


def check_a_wrong_password_leads_back_to_the_login_page(execute: Execute) -> None:
    assert login(execute, "admin", "not-the-password-at-all") == "/s/login"


def check_what_came_since_a_time_can_be_counted(execute: Execute) -> None:
    moment = "FROM_UNIXTIME(1)"
    for table, column, also in (
        ("leads", "date_added", "date_modified IS NULL"),
        ("form_submissions", "date_submitted", "1"),
        ("lead_donotcontact", "date_added", "reason = 1"),
    ):
        assert sql(execute, f"SELECT COUNT(*) >= 0 FROM {table} WHERE {column} >= {moment} AND {also}") == [["1"]]


def check_what_no_job_takes_up_again_stays_and_is_not_due(execute: Execute) -> None:
    """So it is never overdue either: the bot counts by the conditions of due.py."""
    past = "UTC_TIMESTAMP() - INTERVAL 3 HOUR"
    # A real Mautic has further columns without a default; they do not matter here.
    insert = "SET STATEMENT sql_mode = '' FOR INSERT INTO"
    sql(
        execute,
        f"{insert} leads SET id = 4242, is_published = 1, points = 0, email = 'contract@example.test';"
        f" {insert} message_queue SET id = 4242, lead_id = 4242, channel = 'email', channel_id = 1, priority = 2,"
        f" max_attempts = 3, attempts = 3, success = 0, status = 'rescheduled', scheduled_date = {past};"
        f" {insert} campaigns SET id = 4242, is_published = 1, name = 'contract', publish_down = {past};"
        f" {insert} campaigns SET id = 4243, is_published = 1, name = 'contract',"
        " publish_up = UTC_TIMESTAMP() + INTERVAL 1 HOUR;"
        f" {insert} campaigns SET id = 4244, is_published = 0, name = 'contract';"
        f" {insert} imports SET id = 4242, is_published = 1, dir = '/nowhere', file = 'f.csv', status = 2,"
        f" object = 'lead', date_modified = {past};"
        f" {insert} webhooks SET id = 4242, is_published = 0, name = 'contract', webhook_url = 'https://x.invalid'",
    )
    for campaign in (4242, 4243, 4244):
        sql(
            execute,
            f"{insert} campaign_events SET id = {campaign}, campaign_id = {campaign}, name = 'e', type = 'email.send',"
            f" event_type = 'action'; {insert} campaign_lead_event_log SET id = {campaign}, event_id = {campaign},"
            f" lead_id = 4242, campaign_id = {campaign}, is_scheduled = 1, trigger_date = {past}, rotation = 1",
        )
    counted = sql(
        execute,
        f"SELECT COUNT(*) FROM message_queue m WHERE {due.MESSAGES};"
        f" SELECT COUNT(*) FROM campaign_lead_event_log l JOIN campaigns c ON c.id = l.campaign_id WHERE {due.EVENTS};"
        f" SELECT COUNT(*) FROM imports WHERE {due.IMPORTS};"
        f" SELECT COUNT(*) FROM webhooks w WHERE {due.WEBHOOKS}",
    )
    for command in ("mautic:messages:send", "mautic:campaigns:trigger", "mautic:import", "mautic:webhooks:process"):
        console(execute, command)
    left = sql(
        execute,
        "SELECT status, success, attempts FROM message_queue WHERE id = 4242;"
        " SELECT COUNT(*) FROM campaign_lead_event_log WHERE lead_id = 4242 AND is_scheduled = 1;"
        " SELECT status FROM imports WHERE id = 4242",
    )
    sql(
        execute,
        "DELETE FROM campaign_lead_event_log WHERE lead_id = 4242; DELETE FROM campaign_events WHERE name = 'e';"
        " DELETE FROM campaigns WHERE name = 'contract'; DELETE FROM imports WHERE id = 4242;"
        " DELETE FROM message_queue WHERE id = 4242; DELETE FROM webhooks WHERE id = 4242;"
        " DELETE FROM leads WHERE id = 4242",
    )
    assert counted == [["0"]] * 4
    assert left == [["rescheduled", "0", "3"], ["3"], ["2"]]


def check_a_mail_that_was_never_sent_unsubscribes_nobody(execute: Execute) -> None:
    """So the bot can request the page behind the link without changing anything."""
    before = sql(execute, "SELECT COUNT(*) FROM lead_donotcontact")
    status, headers, _ = http(execute, f"/email/unsubscribe/{NOBODY}")
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/html")
    assert sql(execute, "SELECT COUNT(*) FROM lead_donotcontact") == before


def check_failed_mails_are_tried_again_by_their_ids(execute: Execute) -> None:
    """Without ids the command refuses, as it cannot ask anybody."""
    code, _, errors = console(execute, "messenger:failed:retry")
    assert (code, "non-interactive" in errors) == (1, True), errors


def check_without_its_database_it_says_that_it_is_offline(execute: Execute) -> None:
    # The workers are stopped too: systemd would restart them, and the database with them. So would its socket.
    workers = execute(["systemctl", "list-units", "--plain", "--no-legend", "mautic-worker@*"])[1]
    units = [line.split()[0] for line in workers.splitlines()]
    execute(["systemctl", "stop", *units, "mariadb.socket", "mariadb"])
    try:
        status, _, page = http(execute, "/s/login")
        assert (status, "offline" in page) == (500, True), page
        assert console(execute, "--version")[0] == 0
    finally:
        execute(["systemctl", "start", "mariadb", *units])


CONTRACT: tuple[Callable[[Execute], None], ...] = (
    check_version,
    check_second_install_does_nothing_and_ends_with_zero,
    check_unknown_words_end_with_one_on_stderr,
    check_output_is_timed,
    check_cron_commands_end_with_zero,
    check_segments_update_leaves_a_date,
    check_a_live_pid_in_the_lock_stops_a_command_silently,
    check_cache_clear_makes_the_cache_anew,
    check_the_blueprint_has_recorded_its_migrations,
    check_without_their_table_all_migrations_are_new_until_they_are_recorded,
    check_what_the_login_page_links_to_is_there,
    check_a_plugin_is_loaded_with_a_new_cache_and_is_missing_when_it_is_gone,
    check_a_plugin_that_wants_a_newer_mautic_is_passed_over,
    check_a_plugin_that_breaks_ends_every_command_and_every_page,
    check_workers_end_with_zero_when_told_to,
    check_update_find_is_always_zero,
    check_pages_of_an_open_tenant,
    check_a_wrong_password_leads_back_to_the_login_page,
    check_what_came_since_a_time_can_be_counted,
    check_what_no_job_takes_up_again_stays_and_is_not_due,
    check_a_mail_that_was_never_sent_unsubscribes_nobody,
    check_failed_mails_are_tried_again_by_their_ids,
    check_without_its_database_it_says_that_it_is_offline,
)


def check_a_submitted_form_is_a_contact(execute: Execute) -> None:
    sql(
        execute,
        "INSERT INTO forms SET id = 4242, is_published = 1, name = 'contract', alias = 'contract',"
        " post_action = 'message'; INSERT INTO form_fields SET form_id = 4242, label = 'Email', alias = 'email',"
        " type = 'email', is_custom = 0, is_required = 1, save_result = 1, mapped_object = 'contact',"
        " mapped_field = 'email', field_order = 1, properties = 'a:0:{}', validation = '[]', conditions = '[]';"
        " CREATE TABLE form_results_4242_contract (submission_id INT PRIMARY KEY, form_id INT, email LONGTEXT)",
    )
    email = "mauticform[email]=contract@example.test"
    assert http(execute, "/form/submit?formId=4242", "--data-urlencode", email)[0] == 200
    found = sql(
        execute,
        "SELECT COUNT(*) FROM form_submissions s JOIN leads l ON l.id = s.lead_id"
        " WHERE s.form_id = 4242 AND l.email = 'contract@example.test' AND l.date_identified IS NOT NULL",
    )
    assert found == [["1"]]
    assert http(execute, "/form/submit?formId=4243", "--data-urlencode", email)[0] == 404
    sql(
        execute,
        "DROP TABLE form_results_4242_contract; DELETE FROM forms WHERE id = 4242;"
        " DELETE FROM leads WHERE email = 'contract@example.test'",
    )


def check_what_is_due_is_counted_and_taken(execute: Execute) -> None:
    """For the double only: a real Mautic needs complete emails, campaigns and a mail server for this."""
    past = "UTC_TIMESTAMP() - INTERVAL 3 HOUR"
    outbox = f"{ROOT}/var/double-outbox.log"
    sql(
        execute,
        "INSERT INTO leads SET id = 4242, email = 'due@example.test';"
        " INSERT INTO emails SET id = 4242, name = 'contract', email_type = 'list', publish_up = UTC_TIMESTAMP();"
        " INSERT INTO lead_lists SET id = 4242, name = 'contract', alias = 'contract', filters = 'a:0:{}';"
        " INSERT INTO lead_lists_leads SET leadlist_id = 4242, lead_id = 4242, date_added = UTC_TIMESTAMP();"
        " INSERT INTO email_list_xref SET email_id = 4242, leadlist_id = 4242;"
        " INSERT INTO message_queue SET id = 4242, lead_id = 4242, channel = 'email', channel_id = 1, priority = 2,"
        f" max_attempts = 3, attempts = 0, success = 0, status = 'pending', scheduled_date = {past};"
        " INSERT INTO campaigns SET id = 4242, name = 'contract';"
        " INSERT INTO campaign_events SET id = 4242, campaign_id = 4242, name = 'e', type = 'email.send',"
        " event_type = 'action', channel = 'email', channel_id = 4243;"
        " INSERT INTO campaign_lead_event_log SET id = 4242, event_id = 4242, lead_id = 4242, campaign_id = 4242,"
        f" is_scheduled = 1, trigger_date = {past}",
    )
    for command in ("mautic:messages:send", "mautic:campaigns:trigger", "mautic:broadcasts:send"):
        assert console(execute, command)[0] == 0
    console(execute, "messenger:consume", "email", "--time-limit=2")
    assert execute(["grep", "-c", "due@example.test", outbox])[1] == "3\n"
    stats = sql(execute, "SELECT COUNT(*) FROM email_stats WHERE lead_id = 4242")
    again = console(execute, "mautic:broadcasts:send")[1]
    sql(
        execute,
        "DELETE FROM email_stats WHERE lead_id = 4242; DELETE FROM campaign_lead_event_log WHERE lead_id = 4242;"
        " DELETE FROM campaign_events WHERE id = 4242; DELETE FROM campaigns WHERE id = 4242;"
        " DELETE FROM message_queue WHERE id = 4242; DELETE FROM emails WHERE id = 4242;"
        " DELETE FROM lead_lists_leads WHERE lead_id = 4242; DELETE FROM lead_lists WHERE id = 4242;"
        " DELETE FROM leads WHERE id = 4242",
    )
    assert (stats, "| Email" in again) == ([["3"]], False)


DOUBLE_CONTRACT: tuple[Callable[[Execute], None], ...] = (
    check_a_submitted_form_is_a_contact,
    check_what_is_due_is_counted_and_taken,
)


def _uninstall(execute: Execute, local: str = "") -> None:
    """Leave an empty database, its user `contract`, and a local.php with these parameters (none: no file)."""
    sql(
        execute,
        "DROP DATABASE mautic; CREATE DATABASE mautic CHARACTER SET utf8mb4;"
        " CREATE OR REPLACE USER contract@localhost IDENTIFIED BY 'contract';"
        " GRANT ALL ON mautic.* TO contract@localhost",
    )
    execute(["sh", "-c", f"rm -rf {ROOT}/config/local.php {ROOT}/config/parameters_local.php {ROOT}/var/cache/*"])
    if local:
        path = f"{ROOT}/config/local.php"
        code = f"printf '%s\\n' '<?php' \"$1\" >{path} && chown www-data {path}"
        assert execute(["sh", "-c", code, "sh", f"$parameters = array({local});"])[0] == 0


def _install(execute: Execute, *words: str, password: str = "contract") -> tuple[int, str]:
    account = ["--db_name=mautic", "--db_user=contract", f"--db_password={password}", "--db_host=localhost"]
    code, output, errors = console(execute, "mautic:install", *account, *words)
    return code, output + errors


def _has_site_url(execute: Execute) -> bool:
    return execute(["grep", "-q", "site_url", f"{ROOT}/config/local.php"])[0] == 0


ADMIN = ("--admin_email=admin@contract.test", "--admin_password=Travelling-Otter-7-Kayak")


def check_install_refuses_with_zero(execute: Execute) -> None:
    _uninstall(execute)
    code, output = _install(execute, "http://contract.test", *ADMIN)
    assert (code, "Install complete" in output) == (0, False), output
    execute(["chown", "-R", "root", f"{ROOT}/config"])
    execute(["chmod", "755", f"{ROOT}/config"])
    code, output = _install(execute, "https://contract.test", "--force", *ADMIN)
    execute(["chown", "-R", "www-data", f"{ROOT}/config"])
    assert (code, "Install canceled" in output) == (0, True), output
    assert not _has_site_url(execute)


def check_install_fails_with_255_without_its_database(execute: Execute) -> None:
    _uninstall(execute)
    code, output = _install(execute, "https://contract.test", "--force", *ADMIN, password="wrong")
    assert (code, "Errors in database configuration/installation" in output) == (255, True), output


def check_install_fails_with_254_without_an_admin_and_can_be_tried_again(execute: Execute) -> None:
    _uninstall(execute)
    code, output = _install(execute, "https://contract.test", "--force", ADMIN[0])
    assert (code, _has_site_url(execute)) == (254, False), output
    sql(
        execute,
        "INSERT INTO roles SET is_published = 1, name = 'contract', is_admin = 0, readable_permissions = 'a:0:{}'",
    )
    code, output = _install(execute, "https://contract.test", "--force", *ADMIN)
    assert (code, "Install complete" in output, _has_site_url(execute)) == (0, True, True), output
    # It dropped the existing tables without asking.
    assert sql(execute, "SELECT COUNT(*) FROM roles WHERE name = 'contract'") == [["0"]]
    assert sql(execute, "SELECT username FROM users WHERE id = 1") == [["admin"]]


def check_install_fails_when_site_url_stands_in_the_file(execute: Execute) -> None:
    _uninstall(execute, "'site_url' => 'https://contract.test'")
    code, output = _install(execute, "https://contract.test", "--force", *ADMIN)
    assert (code, "Install complete" in output) == (255, False), output


def check_install_leaves_the_admin_s_password_in_the_file(execute: Execute) -> None:
    _uninstall(
        execute,
        "'db_driver' => 'pdo_mysql', 'db_host' => 'localhost', 'db_port' => 3306, 'db_name' => 'mautic',"
        " 'db_user' => 'contract', 'db_password' => 'contract', 'admin_email' => 'admin@contract.test',"
        " 'admin_password' => 'Travelling-Otter-7-Kayak'",
    )
    code, output, _ = console(execute, "mautic:install", "https://contract.test", "--force")
    assert (code, "Install complete" in output) == (0, True), output
    assert execute(["grep", "-q", "Travelling-Otter", f"{ROOT}/config/local.php"])[0] == 0


def check_install_records_no_migration(execute: Execute) -> None:
    """Its last step should record them all, and fails silently."""
    _uninstall(execute)
    code, output = _install(execute, "https://contract.test", "--force", *ADMIN)
    assert (code, "Install complete" in output) == (0, True), output
    assert sql(execute, "SHOW TABLES LIKE 'migrations'") == []
    assert console(execute, "doctrine:migrations:up-to-date")[0] == 1


INSTALL_CONTRACT: tuple[Callable[[Execute], None], ...] = (
    check_install_refuses_with_zero,
    check_install_fails_with_255_without_its_database,
    check_install_fails_with_254_without_an_admin_and_can_be_tried_again,
    check_install_fails_when_site_url_stands_in_the_file,
    check_install_leaves_the_admin_s_password_in_the_file,
    check_install_records_no_migration,
)
"""Checks that install Mautic again and again, after which the tenant is unusable."""
