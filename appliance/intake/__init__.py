"""The front door: DICOM instances in, complete studies out.

In: C-STORE, C-ECHO, MPPS, Storage Commitment, STOW-RS from scanners and PACS. Out: one durable file per instance in the
spool, its row in the intake ledger, and, once a study is judged complete, a hand-over row that the analyser takes up.

    receiver.py   the DICOM service; answers success only when file and row are durable
    senders.py    who sends, and what went wrong with it, for field engineers
    wire/         PDUs, messages and associations, bounded and sans-IO; sockets and threads in one module
    elements.py   walk an encoded data set, lengths checked, nothing decoded (sans-IO)
    examine.py    is this data set whole, and is it what the sender says? Out come the header facts (facts.py)
    storing.py    one instance, step by step, to "durable"; refusal.py has the statuses for what is not taken
    assembly.py   when is a study complete? (sans-IO: time comes in as an argument)
    stacking.py   do the slices of a series make a stack without a gap?
    announcement.py   what others say belongs to a study (sans-IO)
    commitment.py     what is promised to a sender (sans-IO); commitments.py: the queue of reports
    procedure_step.py what a scanner says of its work (MPPS)
    control.py    data sets of requests that store nothing, bounded; control_services.py: those services together
    calling.py    associations of ours to senders
    door.py       the same storing for what does not come by C-STORE; part10.py reads files' meta information (sans-IO);
                  hatch.py takes imports, watched.py a folder's files, stow/ HTTP; side_doors.py: those together
    spool.py      the files
    ledger.py     the port to the journal, implemented by `appliance.storage.intake_journal`
    role.py       all of these together, with threads: start(), stop()

Called by `appliance.service` only; no other stage imports this one.
"""
