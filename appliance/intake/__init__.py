"""The front door: DICOM instances in, complete studies out.

In: C-STORE, C-ECHO, MPPS, Storage Commitment, STOW-RS from scanners and PACS; files from sticks and folders. Out: each
instance durable in the spool, its row in the intake ledger, and, once a study is judged complete, a hand-over row that
the analyser takes up.

The DICOM port
    receiver.py          the DICOM service; answers success only when an instance is durable
    wire/                PDUs, messages and associations, bounded and sans-IO; sockets and threads in three modules
    senders.py           who sends, and what went wrong with it, for field engineers

One instance
    storing.py           step by step to "durable"; refusal.py: why not, with the DICOM status
    elements.py          walk an encoded data set, lengths checked, nothing decoded (sans-IO)
    examine.py           is it whole, and what the sender says it is? facts.py: what is then known of it; uids.py: UIDs
    spool.py             where objects are kept; segments.py: the append log of one study; reserve.py: space for it
    ledger.py            the port to the journal, implemented by `appliance.storage.intake_journal`
    recovery.py          at start: what is in the spool and not in the ledger, after a power cut

When is a study complete?
    assembly.py          decides (sans-IO: time comes in as an argument)
    stacking.py          do the slices of a series make a stack without a gap? (pure)
    announcement.py      what others say belongs to a study (pure)
    pacing.py            the quiet time, learned for each scanner (sans-IO)

What senders ask besides
    commitment.py        Storage Commitment: what is promised to a sender (pure); commitments.py: the queue of reports
    procedure_step.py    MPPS: what a scanner says of its work
    control.py           the data sets of such requests, bounded; control_services.py: those services together
    calling.py           associations of ours to senders

Other ways in
    door.py              the same storing for what does not come by C-STORE; part10.py: files' meta information (pure)
    hatch.py             imports; watched.py: a folder's files; stow/: HTTP; side_doors.py: those together

    role.py              all of these together, with threads: start(), stop()

Called by `appliance.service` only; no other stage imports this one.
"""
