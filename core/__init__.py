"""The shared vocabulary of OneScan: volumes, findings, messages, errors, durable files.

Everybody may import `core`; `core` imports nobody. All of it is pure (values in, values out) except `core.durable`,
the one place that writes files.
"""
