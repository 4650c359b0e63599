"""What surrounds OneScan where it runs: units, container, demo, and private servers for tests and benches.

Used from a checkout only; nothing in the distribution imports it.
"""
