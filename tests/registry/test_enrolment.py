"""Enrolment over real HTTPS, and what the broker then lets the device do."""

from __future__ import annotations

import base64
import datetime as dt
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from core import wire
from core.errors import EnrolmentRefused, IdentityError
from deploy.embedded.mosquitto import MosquittoBroker
from deploy.embedded.ports import free_port
from registry import acl, authority, tokens
from registry.clock import utc_now
from registry.config import RegistryConfig
from registry.enrolment import enrolment_app
from registry.store import Connection, connect
from tests.registry import messages as m
from tests.registry.conftest import wait_until
from tests.registry.device import Device

pytestmark = pytest.mark.integration
Key = ec.EllipticCurvePrivateKey


@dataclass
class Site:
    """A registry's enrolment server and broker, and the way in for its clients."""

    settings: RegistryConfig
    root: authority.Authority
    folder: Path
    broker: MosquittoBroker
    database: str

    def token(self, device: str = m.DEVICE, life: dt.timedelta = dt.timedelta(hours=1)) -> str:
        with connect(self.database, "test") as connection:
            return tokens.make_token(connection, m.SITE, device, utc_now(), life)

    def enrol(self, body: bytes, token: str, device: str = m.DEVICE, site: str = m.SITE) -> httpx.Response:
        context = ssl.create_default_context(cafile=str(self.folder / "ca/ca.crt"))
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        url = f"https://localhost:{self.settings.enrolment.port}/.well-known/est/simpleenroll"
        headers = {"Content-Type": "application/pkcs10"}
        with httpx.Client(verify=context, trust_env=False) as client:
            return client.post(url, content=body, auth=(f"{site}/{device}", token), headers=headers)

    def client_context(self, device: str) -> ssl.SSLContext:
        """Enrol `device` and return what it needs to speak to the broker."""
        key = ec.generate_private_key(ec.SECP256R1())
        answer = self.enrol(request(key), self.token(device), device)
        assert answer.status_code == 200, answer.text
        return self.context(key, certificate(answer))

    def context(self, key: Key, cert: x509.Certificate) -> ssl.SSLContext:
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ) + cert.public_bytes(serialization.Encoding.PEM)
        file = self.folder / f"{cert.serial_number:x}.pem"
        file.write_bytes(pem)
        context = ssl.create_default_context(cafile=str(self.folder / "ca/ca.crt"))
        context.load_cert_chain(str(file))
        return context


@pytest.fixture
def site(tmp_path: Path, database: str) -> Iterator[Site]:
    root = authority.create(tmp_path / "ca", "test CA", utc_now())
    for name in ("server", "broker"):
        issued = root.server(
            ["localhost", "127.0.0.1"], authority.new_key(tmp_path / f"{name}.key").public_key(), utc_now()
        )
        (tmp_path / f"{name}.crt").write_bytes(issued.pem)
    files = (tmp_path / "ca/ca.crt", tmp_path / "broker.crt", tmp_path / "broker.key")
    with MosquittoBroker(tmp_path / "broker", *files, acl="") as broker:
        pid_file = tmp_path / "mosquitto.pid"
        pid_file.write_text(str(broker.pid))
        settings = RegistryConfig.model_validate(
            {
                "database": database,
                "authority": {"folder": tmp_path / "ca"},
                "acl": {"file": broker.folder / "acl", "broker_pid_file": pid_file},
                "enrolment": {
                    "port": free_port(), "certificate": tmp_path / "server.crt", "key": tmp_path / "server.key",
                },
            }
        )  # fmt: skip
        with serving(settings, root):
            yield Site(settings, root, tmp_path, broker, database)


class serving:  # noqa: N801 - reads as a phrase
    """The enrolment server on a thread of its own."""

    def __init__(self, settings: RegistryConfig, root: authority.Authority) -> None:
        e = settings.enrolment
        self._server = uvicorn.Server(
            uvicorn.Config(
                enrolment_app(settings, root), host=e.host, port=e.port, log_config=None,
                ssl_certfile=str(e.certificate), ssl_keyfile=str(e.key),
            )
        )  # fmt: skip
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> None:
        self._thread.start()
        wait_until(lambda: self._server.started)

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)


def request(key: Key | rsa.RSAPrivateKey, name: str = "whatever.the-device-says") -> bytes:
    """A PKCS#10 request as RFC 7030 carries it."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return base64.encodebytes(made.public_bytes(serialization.Encoding.DER))


def certificate(answer: httpx.Response) -> x509.Certificate:
    """The certificate in a certs-only response."""
    (found,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer.content))
    return found


@pytest.fixture
def key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def rows(site: Site, sql: str) -> list[tuple[object, ...]]:
    with connect(site.database, "test") as connection:
        return connection.execute(sql.encode()).fetchall()


def test_a_device_enrols_and_its_name_is_the_registrys_not_its_own(site: Site, key: Key) -> None:
    answer = site.enrol(request(key), site.token())
    assert answer.headers["content-type"].startswith("application/pkcs7-mime")
    issued = certificate(answer)
    assert issued.subject.rfc4514_string() == f"CN={m.SITE}.{m.DEVICE},OU={m.DEVICE},O={m.SITE}"
    assert issued.public_key() == key.public_key()
    issued.verify_directly_issued_by(site.root.certificate)
    usage = issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not issued.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    fingerprint = issued.fingerprint(hashes.SHA256()).hex()
    assert rows(site, "SELECT site, device, fingerprint FROM device") == [(m.SITE, m.DEVICE, fingerprint)]


def test_the_root_is_given_out_and_fits_its_fingerprint(site: Site) -> None:
    context = ssl.create_default_context(cafile=str(site.folder / "ca/ca.crt"))
    url = f"https://127.0.0.1:{site.settings.enrolment.port}/.well-known/est/cacerts"
    root = certificate(httpx.get(url, verify=context, trust_env=False))
    assert root.fingerprint(hashes.SHA256()).hex() == site.root.fingerprint
    basic = root.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (basic.ca, basic.path_length) == (True, 0)
    assert stat.S_IMODE((site.folder / "ca/ca.key").stat().st_mode) == 0o600


def test_the_same_request_after_a_lost_response_gives_the_same_certificate(site: Site, key: Key) -> None:
    token, body = site.token(), request(key)
    first, again = site.enrol(body, token), site.enrol(body, token)
    assert certificate(first) == certificate(again)
    assert rows(site, "SELECT count(*) FROM certificate") == [(1,)]


def test_a_token_serves_once(site: Site, key: Key) -> None:
    token = site.token()
    assert site.enrol(request(key), token).status_code == 200
    other = site.enrol(request(ec.generate_private_key(ec.SECP256R1())), token)
    assert other.status_code == 401
    assert "has been used" in other.text
    assert rows(site, "SELECT count(*) FROM certificate") == [(1,)]


def test_many_at_once_get_one_certificate_from_one_token(site: Site) -> None:
    token = site.token()
    bodies = [request(ec.generate_private_key(ec.SECP256R1())) for _ in range(6)]
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda b=b: statuses.append(site.enrol(b, token).status_code)) for b in bodies]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(statuses) == [200] + [401] * 5
    assert rows(site, "SELECT count(*) FROM certificate") == [(1,)]


def test_a_wrong_foreign_or_expired_token_gets_nothing(site: Site, key: Key) -> None:
    body = request(key)
    assert site.enrol(body, "guessed").status_code == 401
    assert site.enrol(body, site.token("ct-2")).status_code == 401
    assert site.enrol(body, site.token(), site="elsewhere").status_code == 401
    late = site.enrol(body, site.token(life=dt.timedelta(seconds=-1)))
    assert late.status_code == 401
    assert "expired" in late.text
    assert rows(site, "SELECT count(*) FROM device") == [(0,)]


def test_a_wrong_key_or_request_does_not_use_the_token_up(site: Site, key: Key) -> None:
    token = site.token()
    weak = rsa.generate_private_key(65537, 2048)
    assert "P-256" in site.enrol(request(weak), token).text
    assert "P-256" in site.enrol(request(ec.generate_private_key(ec.SECP384R1())), token).text
    der = bytearray(base64.b64decode(request(key)))
    der[-1] ^= 1
    assert site.enrol(base64.b64encode(bytes(der)), token).status_code == 401
    assert site.enrol(b"not a request", token).status_code == 400
    assert site.enrol(b"A" * 100_000, token).status_code == 400
    assert site.enrol(request(key), token).status_code == 200


def test_tokens_are_kept_only_as_hashes(site: Site) -> None:
    token = site.token()
    assert token not in str(rows(site, "SELECT * FROM enrolment_token"))


@pytest.mark.parametrize("name", ["registry", "Upper", "a.b", "a/b", "-a", ""])
def test_names_that_could_be_mistaken_get_no_token(connection: Connection, name: str) -> None:
    with pytest.raises(EnrolmentRefused):
        tokens.make_token(connection, name, "ct-1", m.WHEN, dt.timedelta(hours=1))


def test_a_device_may_speak_for_itself_only(site: Site) -> None:
    with connect(site.database, "test") as connection:
        acl.refresh(connection, site.settings.acl)
    worker_key = authority.new_key(site.folder / "worker.key")
    worker_cert = site.root.worker("ingest", worker_key.public_key(), utc_now()).certificate
    port = site.broker.port
    one, two = site.client_context("ct-1"), site.client_context("ct-2")
    heard: list[tuple[str, bytes]] = []
    with Device(port, "+", "+", site.context(worker_key, worker_cert)) as worker:
        worker.client.on_message = lambda _c, _u, message: heard.append((message.topic, message.payload))
        worker.client.unsubscribe("onescan/v1/+/+/#")
        worker.client.subscribe([(wire.topic("+", "+", leaf), 1) for leaf in wire.DEVICE_TOPICS])
        with Device(port, device="ct-1", tls=one) as first, Device(port, device="ct-2", tls=two) as second:
            second.client.subscribe(first.topic("#"), qos=1)
            first.client.publish(second.topic("result"), b"forged", qos=1).wait_for_publish(10)
            first.client.publish(first.topic("ack"), b"forged", qos=1).wait_for_publish(10)
            first.publish("result", b"own").wait_for_publish(10)
            second.publish("event", b"own").wait_for_publish(10)
            wait_until(lambda: len(heard) == 2)
            worker.client.publish(first.topic("desired"), b"for one only", qos=1).wait_for_publish(10)
            wait_until(lambda: first.heard == [("desired", b"for one only")])
            worker.client.publish(second.topic("desired"), b"for two", qos=1).wait_for_publish(10)
            wait_until(lambda: second.heard == [("desired", b"for two")])
    assert sorted(heard) == [(first.topic("result"), b"own"), (second.topic("event"), b"own")]


def test_a_certificate_of_another_authority_does_not_get_in(site: Site, tmp_path: Path) -> None:
    stranger = authority.create(tmp_path / "other", "other CA", utc_now())
    key = authority.new_key(tmp_path / "stranger.key")
    context = site.context(key, stranger.worker("ingest", key.public_key(), utc_now()).certificate)
    address = ("127.0.0.1", site.broker.port)
    with socket.create_connection(address, 20) as plain, pytest.raises((ssl.SSLError, ConnectionError)):
        _first_word(context, plain)


def _first_word(context: ssl.SSLContext, plain: socket.socket) -> None:
    """With TLS 1.3 a client hears that it was refused when it reads."""
    with context.wrap_socket(plain, server_hostname="localhost") as secured:
        secured.sendall(b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00")
        if not secured.recv(4):
            raise ConnectionError("closed without a word")


def test_an_authority_is_made_once_and_its_key_must_be_private(tmp_path: Path) -> None:
    authority.create(tmp_path / "ca", "CA", m.WHEN)
    with pytest.raises(IdentityError, match="already"):
        authority.create(tmp_path / "ca", "CA", m.WHEN)
    (tmp_path / "ca/ca.key").chmod(0o640)
    with pytest.raises(IdentityError, match="readable by others"):
        authority.open_authority(tmp_path / "ca")
