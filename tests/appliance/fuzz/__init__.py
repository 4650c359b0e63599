"""Seeded, structure-aware fuzzing of what reads strangers' bytes: `campaign.py` runs it, `targets.py` says on what."""
