"""What SQLite raises on a database that is damaged, locked, or none."""

import sqlite3

DATABASE_ERRORS = (sqlite3.Error, UnicodeDecodeError)  # the latter where a damaged schema is quoted by SQLite's message
