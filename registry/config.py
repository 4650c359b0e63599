"""The registry's configuration: one YAML file, checked on reading; nothing here connects or creates anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from core.errors import ConfigError

Port = Annotated[int, Field(ge=0, le=65535)]
WorkerName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BrokerTls(_Section):
    """How the registry's workers prove themselves to the broker, and the broker to them."""

    ca: Path = Field(description="certificate of the CA that signed the broker's certificate, PEM")
    certificate: Path = Field(description="the worker's certificate, subject CN registry.<worker>, PEM")
    key: Path = Field(description="the worker's private key, PEM")


class Broker(_Section):
    """The MQTT 5 broker."""

    host: str = Field("127.0.0.1", description="name or address; must be in the broker's certificate")
    port: Port = 8883
    tls: BrokerTls | None = Field(None, description="absent: no TLS, for a broker on the same machine only")
    keepalive_s: int = Field(30, ge=5, le=600)


class Ingest(_Section):
    """How messages are taken from the broker."""

    worker: WorkerName = Field("ingest", description="fixed name of this worker; its MQTT client id derives from it")
    shared: bool = Field(False, description="several workers share the load ($share/ingest); each needs its own name")
    batch_size: int = Field(500, ge=1, le=10_000, description="messages in one transaction, at most")
    batch_ms: int = Field(50, ge=1, le=5_000, description="how long a batch waits to fill, ms")
    receive_maximum: int = Field(
        4_000, ge=1, le=65_535, description="messages that the broker sends before it waits for our PUBACK"
    )
    session_expiry_s: int = Field(
        30 * 86_400, ge=60, le=0xFFFFFFFE, description="how long the broker keeps messages for an absent worker"
    )


class Authority(_Section):
    """The registry's small certificate authority."""

    folder: Path = Field(Path("authority"), description="holds ca.crt and, readable by its owner only, ca.key")
    device_days: int = Field(398, ge=1, le=3_650, description="validity of a device's certificate, days")


class Enrolment(_Section):
    """The EST server (RFC 7030) at which devices get their certificates."""

    host: str = "127.0.0.1"
    port: Port = 8443
    certificate: Path = Field(Path("authority/server.crt"), description="the server's certificate, PEM")
    key: Path = Field(Path("authority/server.key"), description="the server's private key, PEM")


class AccessList(_Section):
    """Mosquitto's access list, written from the device table."""

    file: Path | None = Field(None, description="absent: the access list is somebody else's business")
    broker_pid_file: Path | None = Field(None, description="Mosquitto's pid_file: gets SIGHUP after each rewrite")
    workers: tuple[WorkerName, ...] = Field(("ingest",), description="workers that may read all devices' messages")


class Web(_Section):
    """The pages, the API and the over-the-air repository; plain HTTP, behind a proxy where it leaves the machine."""

    host: str = "127.0.0.1"
    port: Port = 8080
    tuf_folder: Path | None = Field(None, description="holds metadata/ and targets/; served as /tuf/")


class RegistryConfig(_Section):
    """Everything that the registry's processes need to know."""

    database: str = Field("dbname=onescan", description="libpq connection string; no password in it where possible")
    broker: Broker = Broker()
    ingest: Ingest = Ingest()
    authority: Authority = Authority()
    enrolment: Enrolment = Enrolment()
    acl: AccessList = AccessList()
    web: Web = Web()


def read_config(path: Path) -> RegistryConfig:
    """The configuration in a YAML file; relative paths in it are relative to the file's folder."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        config = RegistryConfig.model_validate(document)
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {getattr(error, 'problem', error)}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"{path}: {field}: {first['msg']}") from error
    return _anchored(config, path.resolve().parent)


def _anchored(config: RegistryConfig, folder: Path) -> RegistryConfig:
    """With every path absolute."""
    changes: dict[str, object] = {}
    for name in type(config).model_fields:
        section = getattr(config, name)
        if isinstance(section, BaseModel):
            changes[name] = _anchor_section(section, folder)
    return config.model_copy(update=changes)


def _anchor_section(section: BaseModel, folder: Path) -> BaseModel:
    changes: dict[str, object] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Path):
            changes[name] = folder / value
        elif isinstance(value, BaseModel):
            changes[name] = _anchor_section(value, folder)
    return section.model_copy(update=changes)
