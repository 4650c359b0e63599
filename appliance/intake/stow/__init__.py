"""STOW-RS (PS3.18 10.5): instances that come by HTTP go the same way as pushed ones.

    request.py       what a request's head asks for, or why it is not taken (pure)
    parts.py         the body: one part after the other, bounded (sans-IO)
    conversation.py  the HTTP of one connection (sans-IO)
    answer.py        what became of the instances, as the client is told (pure)
    visits.py        which requests belong together; stands for the association
    client.py        one connection, in a thread of its own; service.py: the listener

Called by `side_doors.py` only.
"""
