"""What the appliance hands out: result objects to the PACS, messages to the registry.

In: the ports `PacsOutbox` and `MessageOutbox`, plain settings, a clock. Out: C-STORE and MQTT. Nothing counts as
delivered before the other side said so: a success or warning status for an object, the registry's cumulative ack for a
message. `outbox` decides, without I/O; `pacs` and `mqtt` do. For the courier only.
"""

from appliance.delivery.broker import Broker, ClientCertificate, Pace
from appliance.delivery.mqtt import RegistryLink
from appliance.delivery.outbox import Backoff
from appliance.delivery.pacs import Destination, PacsSender, Patience

__all__ = ["Backoff", "Broker", "ClientCertificate", "Destination", "Pace", "PacsSender", "Patience", "RegistryLink"]
