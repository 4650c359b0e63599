"""Durable state of the appliance in SQLite: `intake.db` (receiver) and `journal.db` (analyser, courier, updater)."""
