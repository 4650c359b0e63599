"""The registry's pages and API: read-only, pseudonyms only. In: HTTP. Out: HTML, JSON, Prometheus text, TUF files."""
