"""What the receiver and the courier are given besides plain values: services, doors and sources, as configured."""

from __future__ import annotations

import base64
import datetime as dt
import logging
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from appliance.config import ApplianceConfig, KnownPeerConfig, SourceConfig, WebSourceConfig
from appliance.parts import listening_port
from appliance.ports import Clock
from appliance.storage.intake_reader import IntakeReader
from appliance.tls import client_context, server_context
from core.errors import ConfigError, OneScanError

if TYPE_CHECKING:
    import threading

    from appliance.association import Peer
    from appliance.intake.control_services import CommitmentService, StepService
    from appliance.intake.side_doors import SideDoorSettings
    from appliance.intake.stow.service import StowSettings
    from appliance.intake.wire.gate import Listener
    from appliance.reconciliation.reconciler import Reconciler, Source
    from appliance.reconciliation.web import OwnReceiver
    from appliance.storage.reconciliation import ReconciliationList

log = logging.getLogger(__name__)


def listeners(config: ApplianceConfig) -> list[Listener]:
    """Where DICOM is listened for: plain, and over TLS where that is configured."""
    from appliance.intake.wire.gate import Listener

    settings, tls = config.receiver, config.receiver.tls
    found = [Listener(settings.host, settings.port)]
    if tls is not None:
        found.append(Listener(settings.host, tls.port, server_context(tls.certificate, tls.key, tls.client_ca)))
    return found


def peer(told: KnownPeerConfig | SourceConfig) -> Peer:
    """Somebody whom we call. ConfigError where its TLS files can't be used."""
    from appliance.association import Peer

    tls = client_context(told.tls.ca, told.tls.certificate, told.tls.key) if told.tls else None
    return Peer(told.host, told.port, told.ae_title, tls)


def commitment_service(config: ApplianceConfig, stack: ExitStack) -> CommitmentService:
    """Storage Commitment."""
    from appliance.association import Timeouts
    from appliance.intake.calling import PeerCaller
    from appliance.intake.commitments import Patience
    from appliance.intake.control_services import CommitmentService
    from appliance.storage.commitment_file import CommitmentFile

    settings = config.receiver.commitment
    peers = {told.ae_title: peer(told) for told in settings.peers}
    return CommitmentService(
        stack.enter_context(closing(CommitmentFile(config.intake_db))),
        PeerCaller(peers, config.receiver.ae_title, Timeouts(association_s=10.0, response_s=30.0)),
        most_references=settings.max_references,
        most_owed=settings.max_owed,
        patience=Patience(report_for=dt.timedelta(days=settings.report_days)),
    )


def step_service(config: ApplianceConfig, stack: ExitStack) -> StepService | None:
    """MPPS, where it is offered."""
    from appliance.intake.control_services import StepService
    from appliance.storage.step_file import StepFile

    settings = config.receiver.mpps
    if not settings.offered:
        return None
    file = stack.enter_context(closing(StepFile(config.intake_db)))
    return StepService(file, settings.max_references, settings.max_open)


def side_doors(config: ApplianceConfig) -> SideDoorSettings:
    """Imports are always possible; a folder is watched and STOW-RS listened for where the configuration says so."""
    from appliance.intake.side_doors import SideDoorSettings, Watch
    from appliance.intake.watched import AfterImport

    told = config.receiver.watch
    watch = Watch(told.folder, AfterImport(told.after), told.settle_s, told.max_files) if told is not None else None
    return SideDoorSettings(config.run, watch, stow(config))


def stow(config: ApplianceConfig) -> StowSettings | None:
    """STOW-RS, where it is listened for. ConfigError where its TLS files can't be used."""
    from appliance.intake.stow.service import StowSettings
    from appliance.intake.wire.gate import Listener

    receiver, told = config.receiver, config.receiver.stow
    if told is None:
        return None
    tls, setting = told.tls, "receiver.stow.tls"
    context = server_context(tls.certificate, tls.key, tls.client_ca, setting) if tls is not None else None
    return StowSettings(
        Listener(told.host, told.port, context),
        sender=told.sender_name,
        connections=told.connections,
        idle_s=told.idle_s,
        pause_s=told.pause_s,
        max_part_bytes=told.max_part_bytes,
        most_parts=told.max_parts,
        connections_per_minute=receiver.connections_per_minute,
        addresses=receiver.addresses,
    )


def reconciler(
    config: ApplianceConfig, missed: ReconciliationList, clock: Clock, stopping: threading.Event
) -> Reconciler:
    """Asks the configured sources for what was performed."""
    from appliance.reconciliation.reconciler import Reconciler
    from appliance.reconciliation.reviewer import Reviewer
    from appliance.reconciliation.schedule import Rules

    settings = config.reconciliation
    sources: list[Source] = []
    asked: tuple[SourceConfig | WebSourceConfig, ...] = (*settings.sources, *settings.web)
    for told in asked:
        try:
            sources.append(source(config, told))
        except OneScanError as error:  # results must go out all the same
            missed.unanswered(told.name, clock.now(), "start", str(error))
            log.error("a source can't be asked: %s; %s", error, error.remedy())
    rules = Rules(
        night=settings.night,
        downtime=dt.timedelta(minutes=settings.downtime_minutes),
        settle=dt.timedelta(minutes=settings.settle_minutes),
        look_back=dt.timedelta(days=settings.look_back_days),
        studies_an_hour=settings.studies_an_hour,
        tries=settings.tries,
    )
    intake = IntakeReader(config.intake_db, config.spool)
    return Reconciler(
        sources,
        missed,
        rules,
        clock,
        holds=intake.held,
        arriving=intake.arriving,
        stopping=stopping,
        reviewer=Reviewer(missed, settings.reviewed_by),
    )


def source(config: ApplianceConfig, told: SourceConfig | WebSourceConfig) -> Source:
    """One of them. ConfigError or DeliveryError where its files can't be used."""
    from appliance.reconciliation.source import DicomSource, SourceAddress
    from appliance.reconciliation.web import WebAddress, WebSource

    if isinstance(told, SourceConfig):
        return DicomSource(SourceAddress(told.name, peer(told), config.receiver.ae_title, told.model))
    return WebSource(WebAddress(told.name, told.url, told.ca, _authorization(told)), own_receiver(config))


def own_receiver(config: ApplianceConfig) -> Callable[[], OwnReceiver]:
    """Our receiver, as it is listening at the moment of the call."""
    from appliance.association import Peer
    from appliance.intake.receiver import SOP_CLASSES, TRANSFER_SYNTAXES
    from appliance.reconciliation.web import OwnReceiver

    settings = config.receiver
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "") else settings.host
    contexts = [(sop_class, syntax) for sop_class in SOP_CLASSES for syntax in TRANSFER_SYNTAXES]
    return lambda: OwnReceiver(Peer(host, listening_port(config), settings.ae_title), contexts)


def _authorization(source: WebSourceConfig) -> str:
    """The header that logs us in, "" for none."""
    if source.credentials is None:
        return ""
    try:
        words = source.credentials.read_text("utf-8").strip()
    except OSError as error:
        raise ConfigError(f"can't read {source.credentials}: {error.strerror}") from error
    basic = f"Basic {base64.b64encode(words.encode()).decode()}"
    return basic if ":" in words else f"Bearer {words}"
