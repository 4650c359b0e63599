"""The box's own pages: is it alive, and what became of a study. Reads the journals; no key, no network out.

In: an `Overview` (plain values, asked for on every request). Out: HTML and JSON. No patient names: a study is shown by
the time it came and the first digits of its pseudonym.
"""
