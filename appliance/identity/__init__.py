"""Who this box is, and how it speaks of patients without naming them.

Comes in: the identity folder (`device.key`, `device.csr`, `device.crt`, `ca.crt`, `site.key`), DICOM identifiers.
Goes out: a key that never leaves the folder, a signing request, a TLS context, pseudonyms. No network here: enrolment
is `provisioning.enrol`. Called by `provisioning` and by the composition root of the appliance.
"""
