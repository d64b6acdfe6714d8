"""The SQLite file: its migrations, and the tables of what was asked, decided, done, heard, measured and promised."""
