"""From a bare computer to a working appliance in one visit: `onescan-provision`.

Comes in: a site plan (YAML, written once, contains no secret) and a single-use token. Goes out: an identity folder, a
root of trust for updates, and the appliance's configuration. `site` is the plan, `preflight` looks at the machine,
`enrol` speaks EST (RFC 7030) with the registry, `install` does the steps, `acceptance` shows that the box works.
"""
