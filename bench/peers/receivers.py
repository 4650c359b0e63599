"""`python -m bench.peers.receivers pynetdicom|copy FOLDER PORT`: what else might take a push; each ends with its stdin.

pynetdicom   an SCP as its documentation has it, with the encoded data set written as it came; nothing is synced
copy         no DICOM at all: length, bytes, write, fdatasync, one byte back. Nobody who syncs can be much faster
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any

LENGTH = struct.Struct(">Q")


def serve_pynetdicom(folder: Path, port: int) -> None:
    """Until stdin ends."""
    from pynetdicom import AE, AllStoragePresentationContexts, evt

    def store(event: Any) -> int:
        (folder / event.request.AffectedSOPInstanceUID).write_bytes(event.encoded_dataset())
        return 0

    ae = AE("PEER")
    ae.maximum_pdu_size = 131072
    ae.supported_contexts = AllStoragePresentationContexts
    ae.add_supported_context("1.2.840.10008.1.1")
    server: Any = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    sys.stdin.read()
    server.shutdown()


def serve_copy(folder: Path, port: int) -> None:
    """Until stdin ends."""
    listening = socket.create_server(("127.0.0.1", port))
    threading.Thread(target=_copies, args=(listening, folder), daemon=True).start()
    sys.stdin.read()


def _copies(listening: socket.socket, folder: Path) -> None:
    buffer = memoryview(bytearray(64 << 20))
    count = 0
    while True:
        connection, _ = listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while header := connection.recv(LENGTH.size, socket.MSG_WAITALL):
                (length,) = LENGTH.unpack(header)
                got = 0
                while got < length:
                    got += connection.recv_into(buffer[got:length])
                count += 1
                with (folder / str(count)).open("wb", buffering=0) as file:
                    file.write(buffer[:length])
                    os.fdatasync(file.fileno())
                connection.sendall(b"!")


def send_copies(files: list[Path], port: int) -> None:
    """The sender of `copy`: the same files, one after the other, each waited for."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for path in files:
            content = path.read_bytes()
            connection.sendall(LENGTH.pack(len(content)))
            connection.sendall(content)
            connection.recv(1)


if __name__ == "__main__":
    {"pynetdicom": serve_pynetdicom, "copy": serve_copy}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
