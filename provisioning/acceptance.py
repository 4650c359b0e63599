"""Show that a provisioned appliance works in its place: what a scanner, the PACS and the registry would notice.

    receiver   C-ECHO to this box's own receiver, as the first scanner of the settings (PS3.4 Annex A)
    PACS       C-ECHO to every destination, with our AE title
    broker     MQTT 5 over mutual TLS; our own topic is writable, another device's is not
    identity   certificate of this key, by this CA, for this name, and for how long
    model      which bundle is active, as the box's own page says
    clock, disk, memory as in `preflight`

Nothing that it sends looks like a study or a result: an empty message on the topic `image`, which nobody reads.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from pynetdicom import AE

from appliance.association import keep_responses
from appliance.config import ApplianceConfig
from appliance.identity import keys
from appliance.identity.keys import IdentityFolder
from core import wire
from core.errors import IdentityError
from provisioning import preflight
from provisioning.preflight import Check

_VERIFICATION = "1.2.840.10008.1.1"  # Verification SOP Class (PS3.4 A.4)
_TIMEOUT_S = 10.0
_NOT_AUTHORISED = 0x87  # MQTT 5, 3.4.2.1
_STRANGER = "onescan-acceptance-stranger"


def accept(settings: ApplianceConfig, now: dt.datetime) -> tuple[Check, ...]:
    """All checks. Each stands for itself: a failure of one does not hide the others."""
    return (
        identity(settings, now),
        receiver(settings),
        *(pacs(settings, p.name, p.host, p.port, p.ae_title) for p in settings.pacs),
        broker(settings),
        model(settings),
        preflight.clock(now, preflight.kernel_says_synchronised()),
        preflight.disk(settings.state, settings.receiver.min_free_bytes),
        preflight.memory(settings.analyser.memory_mb),
    )


def identity(settings: ApplianceConfig, now: dt.datetime) -> Check:
    """The certificate does what it is for, and for a while yet."""
    folder = IdentityFolder(settings.identity)
    name = keys.common_name(settings.site, settings.device)
    try:
        certificate = keys.load_certificate(folder.certificate)
        ca = keys.load_certificate(folder.ca)
        keys.check_certificate(certificate, keys.load_device_key(folder), ca, name, now)
    except IdentityError as error:
        return Check("identity", "fail", str(error), error.remedy())
    text = f"{name}, {keys.days_left(certificate, now):.0f} days left"
    if keys.renewal_due(certificate, now):
        return Check("identity", "warn", text, "Ask for a token before it expires, and run `apply` again.")
    return Check("identity", "ok", text)


def receiver(settings: ApplianceConfig) -> Check:
    """This box's own receiver answers a scanner."""
    own = settings.receiver
    host = "127.0.0.1" if own.host in ("0.0.0.0", "", "::") else own.host
    port = own.port or _port_file(settings, "receiver")
    if port is None:
        return Check("receiver", "fail", "no receiver runs here", "Start it: onescan-appliance run")
    calling = own.calling_ae_titles[0] if own.calling_ae_titles else "ONESCAN-TEST"
    return _echo("receiver", host, port, calling, own.ae_title, "Start it: onescan-appliance run")


def pacs(settings: ApplianceConfig, name: str, host: str, port: int, title: str) -> Check:
    """One PACS knows this box."""
    remedy = f"Have {settings.receiver.ae_title} registered at the PACS, with this box's address; check its own title."
    return _echo(f"PACS {name}", host, port, settings.receiver.ae_title, title, remedy)


def _echo(name: str, host: str, port: int, calling: str, called: str, remedy: str) -> Check:
    where = f"{called} at {host}:{port}"
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = _TIMEOUT_S
    ae.add_requested_context(_VERIFICATION)
    association = ae.associate(host, port, ae_title=called)
    if not association.is_established:
        why = "refused the association" if association.is_rejected else "does not answer"
        return Check(name, "fail", f"{where} {why} (we are {calling})", remedy)
    keep_responses(association)
    try:
        status = association.send_c_echo()
    finally:
        association.release()
    code = status.get("Status")
    if code != 0x0000:
        return Check(name, "fail", f"{where} answered the echo with {code}", remedy)
    return Check(name, "ok", f"{where} answers {calling}")


def broker(settings: ApplianceConfig) -> Check:
    """The broker takes us for who we are, and for nobody else."""
    where = f"{settings.registry.mqtt_host}:{settings.registry.mqtt_port}"
    try:
        with _connected(settings) as publish:
            own = publish(wire.topic(settings.site, settings.device, "image"))
            foreign = publish(wire.topic(settings.site, _STRANGER, "image"))
    except IdentityError as error:
        return Check("broker", "fail", str(error), error.remedy())
    except OSError as error:
        remedy = "Check address, firewall and clock; and that the registry runs."
        return Check("broker", "fail", f"{where}: {error}", remedy)
    if own >= 0x80:
        remedy = "Ask the central team whether this device stands in the broker's access list."
        return Check("broker", "fail", f"{where} does not let us write to our own topic (code {own:#04x})", remedy)
    if foreign != _NOT_AUTHORISED:
        remedy = "The broker's access list is not in force: tell the central team at once."
        return Check("broker", "fail", f"{where} lets us write as another device", remedy)
    return Check("broker", "ok", f"{where}: mutual TLS, own topics only")


@contextlib.contextmanager
def _connected(settings: ApplianceConfig) -> Iterator[Callable[[str], int]]:
    """A function that publishes an empty message and returns the reason code of its PUBACK. OSError: no connection."""
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=f"{keys.common_name(settings.site, settings.device)}.acceptance",
        protocol=mqtt.MQTTv5,
        reconnect_on_failure=False,
    )
    client.tls_set_context(keys.tls_context(IdentityFolder(settings.identity)))
    answers: dict[int, int] = {}
    heard = threading.Condition()

    def hear(key: int, reason: Any) -> None:
        with heard:
            answers[key] = reason.value
            heard.notify_all()

    client.on_connect = lambda c, u, flags, reason, properties: hear(0, reason)  # message ids start at 1
    client.on_publish = lambda c, u, mid, reason, properties: hear(mid, reason)

    def wait_for(key: int, what: str) -> int:
        with heard:
            if not heard.wait_for(lambda: key in answers, _TIMEOUT_S):
                raise TimeoutError(f"no answer to {what} within {_TIMEOUT_S:.0f} s")
            return answers[key]

    client.connect(settings.registry.mqtt_host, settings.registry.mqtt_port, keepalive=20)
    client.loop_start()
    try:
        if (code := wait_for(0, "the connection")) != 0:
            raise ConnectionRefusedError(f"the broker refused this device (code {code:#04x})")
        yield lambda topic: wait_for(client.publish(topic, b"", qos=1).mid, "a message")
    finally:
        client.disconnect()
        client.loop_stop()


def model(settings: ApplianceConfig) -> Check:
    """The bundle that the box's own page calls active."""
    port = settings.console.port or _port_file(settings, "console")
    if port is None:
        return Check("model", "fail", "no console runs here", "Start it: onescan-appliance run")
    host = "127.0.0.1" if settings.console.host in ("0.0.0.0", "", "::") else settings.console.host
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{host}:{port}/api/v1/box", timeout=_TIMEOUT_S) as answer:
            bundle = json.load(answer).get("bundle")
    except (urllib.error.URLError, OSError, ValueError) as error:
        return Check("model", "fail", f"the box's page does not answer: {error}", "Start it: onescan-appliance run")
    if not bundle:
        remedy = "Ask the central team to assign a bundle; until then every study is answered 'not analysed'."
        return Check("model", "warn", "no bundle is active", remedy)
    return Check("model", "ok", f"{bundle} is active")


def _port_file(settings: ApplianceConfig, role: str) -> int | None:
    """The port that a role took where the settings say 0."""
    try:
        return int((settings.run / f"{role}.port").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
