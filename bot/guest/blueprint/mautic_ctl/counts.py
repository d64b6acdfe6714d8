"""`counts`: counts the data added since a time, which going back to a state of that time would lose."""

from collections.abc import Mapping
from typing import Any

from .system import sql

# Each maximum is the end of one of Mautic's own indexes, so no contact is read, even among a million.
COUNTS = """
SELECT 'contacts', COUNT(*) FROM leads WHERE date_added >= FROM_UNIXTIME({since});
SELECT 'submissions', COUNT(*) FROM form_submissions WHERE date_submitted >= FROM_UNIXTIME({since});
SELECT 'opt_outs', COUNT(*) FROM lead_donotcontact WHERE reason = 1 AND date_added >= FROM_UNIXTIME({since});
SELECT 'last_write', COALESCE(UNIX_TIMESTAMP(GREATEST(
  COALESCE((SELECT GREATEST(MAX(date_added), COALESCE(MAX(date_modified), MAX(date_added))) FROM leads), '1970-01-02'),
  COALESCE((SELECT MAX(date_submitted) FROM form_submissions), '1970-01-02'),
  COALESCE((SELECT MAX(date_added) FROM lead_donotcontact), '1970-01-02'))), 0);
"""


def counts(request: Mapping[str, Any]) -> dict[str, Any]:
    """Count contacts, submissions and opt-outs since a time, and return the time of the last write (0: none).

    All of Mautic's datetimes are UTC, so the session is UTC too.
    """
    rows = sql("SET time_zone = '+00:00';" + COUNTS.format(since=int(request.get("since") or 0)), "mautic")
    found = {name: int(float(number)) for name, number in rows}
    return found | {"last_write": found["last_write"] if found["last_write"] > 86400 else 0}
