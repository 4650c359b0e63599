"""HU volume in, seven cancer answers out. No DICOM, no network.

A model bundle (`manifest`, `bundle`) says which networks to run and how; `runtime` runs them on this device; `cascade`
turns a `core.volume.Volume` into answers; `parity` proves on the bundle's golden cases that it does so here as it did
where the bundle was made. The appliance's analyser and updater call these, `onescan-engines` (`cli`) shows them to a
model developer. The registry imports `manifest` alone.
"""
