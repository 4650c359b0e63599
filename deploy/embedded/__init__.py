"""Real servers, privately: Mosquitto, PostgreSQL, a storage SCP, Orthanc.

Each class is a context manager that starts its server under a folder of the caller, on a free port of
127.0.0.1, waits until it answers, and stops it by its own process id. `stop()` and `start()` may be called
any number of times: the server comes back with the same folder and port, which is how "the broker is down for
an hour" is tested.

    with PostgresCluster(folder / "postgres") as postgres, MosquittoBroker.insecure(folder / "broker") as
    broker:
        ...

Start them from a thread that lives as long as they should (the main thread): the kernel ends a server when
the thread that started it ends. No system service, no file outside the folder (but see `PostgresCluster` for
root).
"""

from __future__ import annotations

from deploy.embedded.chromium import find_chromium
from deploy.embedded.mosquitto import MosquittoBroker
from deploy.embedded.orthanc import OrthancPacs
from deploy.embedded.pacs import StoragePacs
from deploy.embedded.ports import free_port, free_ports
from deploy.embedded.postgres import PostgresCluster
from deploy.embedded.process import Server, ServerError

__all__ = [
    "MosquittoBroker",
    "OrthancPacs",
    "PostgresCluster",
    "Server",
    "ServerError",
    "StoragePacs",
    "find_chromium",
    "free_port",
    "free_ports",
]
