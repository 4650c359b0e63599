"""Model updates over the air: what the registry wishes becomes what the analyser uses, or it is refused.

Comes in: a wish (name, version) on the `BundleShelf`, a TUF repository over HTTP. Goes out: rows on the shelf; the one
that becomes "active" is the atomic switch. `activation` is the life of a bundle as a table, `client` and `fetcher` get
it here, `trial` runs its golden cases in a child process, `updater` walks the table. Called by the updater role alone.
"""
