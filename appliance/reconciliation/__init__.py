"""No patient falls through an outage: what a source says was performed, what this box holds, fetching the rest.

In: a source (PACS or scanner) that answers C-FIND and C-MOVE, what the ledger holds, a durable list. Out: the source
pushes what was missed to our own receiver, through the very same spool. `comparison` and `schedule` decide, without
I/O; `source` speaks DICOM; `reconciler` goes round. For the courier only: it has the network.
"""
