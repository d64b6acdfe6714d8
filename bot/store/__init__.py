"""The SQLite database: its migrations, and the tables of operations, decisions, deliveries, metrics and secrets."""
