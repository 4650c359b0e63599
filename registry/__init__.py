"""The central registry: takes what the devices say, keeps it, shows it, and vouches for the devices.

In: MQTT messages of `core.wire` (ingest), certificate requests (enrolment), a person's browser (web). Out: cumulative
acknowledgements, certificates, the broker's access list, pages and an API. Patients and studies are pseudonyms here;
nothing in this package can turn one back into a person.

    ingest ──▶ triage ──▶ commit (store) ──▶ acks      enrolment ──▶ authority, tokens ──▶ acl
                                 │
                                 └──▶ web (pages, API, metrics)

Only the registry's own commands (`registry.cli`) may call it; it uses `core` and `engines.manifest`, nothing else.
"""
