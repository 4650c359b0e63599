"""The DICOM upper layer (PS3.8) and its messages (PS3.7), as acceptor: bounded, and sans-IO but for the last three.

    pdus.py      bytes → whole PDUs; a length is checked before anything of it is read
    messages.py  P-DATA fragments → DIMSE messages; responses → P-DATA
    acceptor.py  one association: a table of what is allowed when; negotiation is pynetdicom's
    bounds.py    who may connect, how often, how much may be open
    gate.py      the listening thread: who is let in; STOW-RS has one too
    link.py      one connection and its thread
    service.py   those together, places for associations, and the end of it all

What a peer may cost is bounded at each step: connections, PDU length, command and data set length, time. Everything
that breaks a rule is a `PeerFault`; it ends that connection and nothing else.
"""
