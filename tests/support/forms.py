"""Publishes a form in a tenant's database, as the editor of Mautic 5 makes it; the double accepts it too."""

from __future__ import annotations

from bot.lxd.protocol import Lxd

FORM = """
INSERT INTO forms SET id = {id}, is_published = 1, name = 'f', alias = 'f', post_action = 'message';
INSERT INTO form_fields SET form_id = {id}, label = 'Email', show_label = 1, alias = 'email', type = 'email',
  is_custom = 0, is_required = 1, save_result = 1, mapped_object = 'contact', mapped_field = 'email', field_order = 1,
  custom_parameters = 'a:0:{{}}', properties = 'a:0:{{}}', validation = '[]', conditions = '[]';
CREATE TABLE form_results_{id}_f (submission_id INT UNSIGNED NOT NULL PRIMARY KEY, form_id INT UNSIGNED NOT NULL,
  email LONGTEXT) DEFAULT CHARSET utf8mb4;
"""
"""A form with one field, the contact's address, and the table that Mautic makes for a form's results."""


def make_form(lxd: Lxd, instance: str, number: int = 1) -> None:
    """Publish the form at `/form/submit?formId=<number>`."""
    ended = lxd.execute(instance, ["mariadb", "mautic", "-e", FORM.format(id=number)])
    assert ended.code == 0, ended.stderr
