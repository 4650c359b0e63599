"""The composition root: one function a role, each with one ExitStack. Everything is made here, nothing anywhere else.

receiver  DICOM in, spool, assembly            writes intake.db and the spool
analyser  volume, cascade, result objects      writes journal.db and objects, reads spool and bundles
courier   outboxes to PACS and MQTT            writes journal.db; device key, network out
updater   over-the-air updates of models       writes journal.db and bundles; network out
console   the box's own pages                  reads the journals
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing
from importlib import metadata
from typing import TYPE_CHECKING

from appliance.clock import SystemClock
from appliance.config import ApplianceConfig, WebSourceConfig
from appliance.identity.keys import IdentityFolder
from appliance.identity.pseudonyms import Pseudonyms, load_site_key
from appliance.presence import birth_body, read_manifest, reported_body
from appliance.role import RoleProcess
from appliance.storage.intake_journal import IntakeJournal, IntakeReader
from appliance.storage.journal import Journal
from appliance.storage.pace_file import PaceFile
from appliance.storage.reconciliation import ReconciliationList
from core import durable
from core.errors import ConfigError, OneScanError
from core.finding import Cancer
from core.requirement import requirements
from core.wire import DesiredBody, EventBody

if TYPE_CHECKING:
    from appliance.days import Days
    from appliance.intake.control_services import CommitmentService
    from appliance.intake.side_doors import SideDoorSettings
    from appliance.overview import JournalOverview
    from appliance.reading import StudyReader
    from appliance.reconciliation.reconciler import Reconciler
    from appliance.reconciliation.web import WebSource
    from appliance.storage.commitment_file import CommitmentFile
    from appliance.update.updater import Report

log = logging.getLogger(__name__)

FOREVER = float("inf")
LINK_STUCK_S = 180.0
VERSION = metadata.version("onescan")


def run(role: str, config: ApplianceConfig) -> None:
    """Run one role until SIGTERM."""
    for folder in (config.state, config.spool, config.objects, config.bundles, config.run):
        durable.make_folder(folder, 0o2770)
    _ROLES[role](config)


def preload() -> None:
    """Import what idle roles need: a supervisor's roles share its pages. What a study needs, the analyser imports."""
    import appliance.analyser
    import appliance.console.app
    import appliance.courier
    import appliance.delivery
    import appliance.intake.role
    import appliance.overview
    import appliance.update.trial
    import appliance.update.updater  # noqa: F401


def run_receiver(config: ApplianceConfig) -> None:
    """DICOM in: durable before success, complete when the geometry says so."""
    import datetime as dt

    from appliance.intake.control_services import StepService
    from appliance.intake.role import ReceiverRole
    from appliance.intake.wire.bounds import Limits
    from appliance.intake.wire.service import Listener
    from appliance.intake.wire.tls import server_context
    from appliance.storage.commitment_file import CommitmentFile
    from appliance.storage.step_file import StepFile

    settings, tls = config.receiver, config.receiver.tls
    listeners = [Listener(settings.host, settings.port)]
    if tls is not None:
        listeners.append(Listener(settings.host, tls.port, server_context(tls.certificate, tls.key, tls.client_ca)))
    with ExitStack() as stack:
        process = stack.enter_context(RoleProcess("receiver", config.run))
        ledger = stack.enter_context(closing(IntakeJournal(config.intake_db, config.spool)))
        journal = stack.enter_context(closing(open_journal(config)))
        steps = None
        if settings.mpps.offered:
            step_file = stack.enter_context(closing(StepFile(config.intake_db)))
            steps = StepService(step_file, settings.mpps.max_references, settings.mpps.max_open)
        receiver = ReceiverRole(
            listeners=listeners,
            ae_title=settings.ae_title,
            calling_ae_titles=config.may_send,
            limits=Limits(
                associations=settings.max_associations,
                connections=2 * settings.max_associations,
                idle_s=settings.idle_s,
                negotiation_s=settings.negotiation_s,
                connections_per_minute=settings.connections_per_minute,
                addresses=config.may_connect,
            ),
            max_dataset_bytes=settings.max_dataset_bytes,
            spool=config.spool,
            ledger=ledger,
            quiet_seconds=settings.quiet_seconds,
            min_free_bytes=settings.min_free_bytes,
            clock=SystemClock(),
            doorbell=process.bells,
            pseudonym=pseudonyms(config).study,
            keep_studies=dt.timedelta(days=settings.keep_studies_days),
            finished=journal.finished_handovers,
            senders_file=config.senders,
            paces=PaceFile(config.intake_db),
            max_request_bytes=settings.max_request_bytes,
            commitment=commitment_service(config, stack.enter_context(closing(CommitmentFile(config.intake_db)))),
            steps=steps,
            side_doors=side_doors(config),
        )
        stack.callback(receiver.stop)
        receiver.start()
        for name, port in zip(("receiver.port", "receiver-tls.port"), receiver.ports, strict=False):
            durable.write_text(config.run / name, str(port))
        ready = f"receives as {settings.ae_title} on port {' and '.join(map(str, receiver.ports))}"
        process.turn(lambda: FOREVER, ready, alive=lambda: receiver.alive)


def commitment_service(config: ApplianceConfig, ledger: CommitmentFile) -> CommitmentService:
    """Storage Commitment as the configuration has it."""
    import datetime as dt

    from appliance.intake.calling import Peer, PeerCaller
    from appliance.intake.commitments import Patience
    from appliance.intake.control_services import CommitmentService
    from appliance.intake.wire.tls import client_context

    settings = config.receiver.commitment
    peers = {
        peer.ae_title: Peer(
            peer.host, peer.port, client_context(peer.tls.ca, peer.tls.certificate, peer.tls.key) if peer.tls else None
        )
        for peer in settings.peers
    }
    return CommitmentService(
        ledger,
        PeerCaller(peers, config.receiver.ae_title),
        most_references=settings.max_references,
        most_owed=settings.max_owed,
        patience=Patience(report_for=dt.timedelta(days=settings.report_days)),
    )


def side_doors(config: ApplianceConfig) -> SideDoorSettings:
    """Imports are always possible; a folder is watched where the configuration names one."""
    from appliance.intake.side_doors import SideDoorSettings, Watch
    from appliance.intake.watched import AfterImport

    watch = config.receiver.watch
    if watch is None:
        return SideDoorSettings(config.run)
    return SideDoorSettings(config.run, Watch(watch.folder, AfterImport(watch.after), watch.settle_s, watch.max_files))


def run_analyser(config: ApplianceConfig) -> None:
    """Hand-overs in, answers out, one study after the other."""
    from appliance.analyser import Analyser

    settings = config.analyser
    with ExitStack() as stack:
        process = stack.enter_context(RoleProcess("analyser", config.run))
        journal = stack.enter_context(closing(open_journal(config)))
        analyser = Analyser(
            journal=journal,
            intake=IntakeReader(config.intake_db, config.spool),
            reader=lambda: study_reader(config, journal, process),
            pseudonym=pseudonyms(config).study,
            clock=SystemClock(),
            bells=process.bells,
            destinations=[destination.name for destination in config.pacs],
            max_attempts=settings.max_attempts,
        )

        def step() -> float:
            wait = analyser.step()
            if analyser.rest():
                log.info("idle: the role starts afresh, which gives all memory of models and libraries back")
                process.stopping.set()
            return wait

        process.turn(step, "waits for studies", longest_s=settings.deadline_s + 300.0)


def study_reader(config: ApplianceConfig, journal: Journal, process: RoleProcess) -> StudyReader:
    """What the analyser reads studies with."""
    from appliance.models import Models
    from appliance.pipeline import Desk
    from appliance.reading import StudyReader
    from appliance.reporting import Equipment
    from engines.bundle import Bundle
    from engines.cascade import Budget
    from engines.runtime import Runtime
    from engines.runtime.choice import choose

    settings, names, clock = config.analyser, pseudonyms(config), SystemClock()
    budget = Budget(memory_mb=settings.memory_mb, deadline_s=settings.deadline_s)
    equipment = Equipment(
        serial=f"{config.site}.{config.device}", software_version=VERSION, institution=config.institution
    )

    def runtime(bundle: Bundle) -> Runtime:
        choice = choose(
            *(settings.runtime, settings.threads, settings.precision), plans=config.plans, networks=bundle.networks
        )
        log.info("runtime chosen", extra={"runtime": choice.runtime.name, "why": choice.why})
        return choice.runtime

    models = Models(journal.shelf, config.bundles, runtime, budget, settings.unload_after_s)

    def desk() -> Desk:
        opened = models.current()
        return Desk(
            cascade=opened.cascade,
            without=opened.without,
            model=opened.model,
            modes=settings.modes,
            pseudonyms=names,
            equipment=equipment,
            state=config.state,
            objects=config.objects,
            was_reported=journal.has_report,
            now=clock.now,
            cancelled=process.stopping.is_set,
            asked=requirements(opened.asked, settings.series),
            looked_for=tuple(opened.asked) or tuple(Cancer),
        )

    return StudyReader(desk, models.rest)


def run_courier(config: ApplianceConfig) -> None:
    """Objects to the PACS, messages to the registry, wishes and acks back."""
    from appliance.courier import Courier, stalled_event
    from appliance.delivery import Broker, ClientCertificate, Destination, PacsSender, RegistryLink

    identity = IdentityFolder(config.identity)
    with ExitStack() as stack:
        process = stack.enter_context(RoleProcess("courier", config.run))
        journal = stack.enter_context(closing(open_journal(config)))
        clock = SystemClock()

        def desired(body: DesiredBody) -> None:
            journal.shelf.wish(body.bundle, body.version, clock.now())
            process.bells.ring("updater")

        calling = config.receiver.ae_title
        sender = PacsSender(
            {p.name: Destination(p.host, p.port, p.ae_title, calling) for p in config.pacs},
            journal.pacs,
            clock,
            on_stalled=stalled_event(journal),
            stopping=process.stopping.is_set,
        )
        certificate = ClientCertificate(identity.ca, identity.certificate, identity.device_key)
        link = RegistryLink(
            Broker(config.registry.mqtt_host, config.registry.mqtt_port, certificate),
            config.site,
            config.device,
            clock.stamp().boot_id,
            journal.messages,
            clock,
            next_session=journal.messages.next_session,
            birth=lambda session: birth_body(config, journal, clock, session, VERSION),
            on_desired=desired,
        )
        journal.messages.on_acknowledged = lambda: process.bells.ring("courier")
        stack.callback(link.stop)
        link.start()
        missed = stack.enter_context(closing(ReconciliationList(config.journal_db)))
        reconciler = reconciliation(config, missed, stack, process, clock)
        journal.tell(EventBody(kind="started", subject=VERSION))
        courier = Courier(
            journal,
            IntakeReader(config.intake_db, config.spool),
            sender,
            link,
            clock,
            pseudonyms(config).study,
            config.state,
            disk_low_bytes=2 * config.receiver.min_free_bytes,
            days=days(config, missed).bodies,
        )

        def alive() -> bool:
            return link.idle_s < LINK_STUCK_S and (reconciler is None or reconciler.alive)

        process.turn(courier.step, "delivers", alive=alive, longest_s=600.0)


def reconciliation(
    config: ApplianceConfig, missed: ReconciliationList, stack: ExitStack, process: RoleProcess, clock: SystemClock
) -> Reconciler | None:
    """Start asking the configured sources for what was performed; None where there are none."""
    import datetime as dt

    from appliance.reconciliation.reconciler import Reconciler, Source
    from appliance.reconciliation.schedule import Rules
    from appliance.reconciliation.source import DicomSource, SourceAddress, SourceTls

    settings = config.reconciliation
    if not settings.names:
        return None
    calling = config.receiver.ae_title
    sources: list[Source] = [
        DicomSource(
            SourceAddress(
                *(source.name, source.host, source.port, source.ae_title, calling, source.model),
                tls=SourceTls(source.tls.ca, source.tls.certificate, source.tls.key) if source.tls else None,
            )
        )
        for source in settings.sources
    ]
    for told in settings.web:
        try:
            sources.append(web_source(config, told))
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
    reconciler = Reconciler(
        sources, missed, rules, clock, holds=intake.held, arriving=intake.arriving, stopping=process.stopping
    )
    stack.callback(reconciler.join)
    reconciler.start()
    return reconciler


def web_source(config: ApplianceConfig, source: WebSourceConfig) -> WebSource:
    """A source that speaks DICOMweb, and our receiver as it is listening at that moment."""
    import base64

    from appliance.intake.receiver import SOP_CLASSES, TRANSFER_SYNTAXES
    from appliance.reconciliation.web import OwnReceiver, WebAddress, WebSource

    authorization = ""
    if source.credentials is not None:
        try:
            words = source.credentials.read_text("utf-8").strip()
        except OSError as error:
            raise ConfigError(f"can't read {source.credentials}: {error.strerror}") from error
        basic = f"Basic {base64.b64encode(words.encode()).decode()}"
        authorization = basic if ":" in words else f"Bearer {words}"
    host = "127.0.0.1" if config.receiver.host in ("0.0.0.0", "::", "") else config.receiver.host
    contexts = [(sop_class, syntax) for sop_class in SOP_CLASSES for syntax in TRANSFER_SYNTAXES]

    def receiver() -> OwnReceiver:
        return OwnReceiver(host, listening_port(config), config.receiver.ae_title, contexts)

    return WebSource(WebAddress(source.name, source.url, source.ca, authorization), receiver)


def run_updater(config: ApplianceConfig) -> None:
    """Brings the wanted bundle here, tries it, switches to it."""
    from appliance.update.client import ReleaseClient
    from appliance.update.fetcher import Fetcher
    from appliance.update.plans import trial_for
    from appliance.update.trusted_time import TrustedTime
    from appliance.update.updater import Updater

    with ExitStack() as stack:
        process = stack.enter_context(RoleProcess("updater", config.run))
        journal = stack.enter_context(closing(open_journal(config)))
        clock = SystemClock()
        time = TrustedTime(config.tuf / "time", clock)
        ca = IdentityFolder(config.identity).ca
        client = ReleaseClient(config.tuf, config.registry.tuf_url, config.bundles, Fetcher(ca_file=ca), time)
        trial = trial_for(config.analyser.runtime, config.analyser.precision, config.plans, config.analyser.memory_mb)

        def tell(report: Report) -> None:
            journal.set_reported(reported_body(config, report, clock).model_dump_json())
            process.bells.ring("courier")

        updater = Updater(
            journal.shelf,
            client,
            config.bundles,
            trial,
            clock,
            idle=lambda: journal.next() is None,
            tell=tell,
            stopping=process.stopping.is_set,
        )

        def step() -> float:
            return 0.0 if updater.step().more else FOREVER

        process.turn(step, "waits for updates", longest_s=4 * 3600)


def run_console(config: ApplianceConfig) -> None:
    """The box's own pages."""
    import socket
    import threading

    import uvicorn

    from appliance.console.app import create_app
    from appliance.console.server import PageServer

    with ExitStack() as stack:
        process = stack.enter_context(RoleProcess("console", config.run))
        listener = stack.enter_context(closing(socket.create_server((config.console.host, config.console.port))))
        port = int(listener.getsockname()[1])
        durable.write_text(config.run / "console.port", str(port))
        settings = uvicorn.Config(create_app(overview(config)), log_config=None, access_log=False, server_header=False)
        server = PageServer(settings)
        thread = threading.Thread(target=server.run, args=([listener],), name="pages", daemon=True)
        thread.start()
        process.turn(lambda: FOREVER, f"pages on port {port}", alive=thread.is_alive)
        server.should_exit = True
        thread.join(10)


def days(config: ApplianceConfig, missed: ReconciliationList) -> Days:
    """What was performed, received, analysed, delivered on each day."""
    from appliance.days import Days

    intake = IntakeReader(config.intake_db, config.spool)
    return Days(missed, intake, SystemClock(), config.reconciliation.names)


def overview(config: ApplianceConfig) -> JournalOverview:
    """What pages and `onescan-appliance status` show."""
    from appliance.overview import JournalOverview

    journal = open_journal(config)
    return JournalOverview(
        config=config,
        journal=journal,
        days=days(config, ReconciliationList(config.journal_db)),
        intake=IntakeReader(config.intake_db, config.spool),
        pseudonyms=pseudonyms(config),
        software=VERSION,
        port=listening_port(config),
        synthetic=lambda digest: read_manifest(config.bundles, digest).synthetic,
    )


def listening_port(config: ApplianceConfig) -> int:
    """The receiver's port, also where the configuration says 0."""
    try:
        return config.receiver.port or int((config.run / "receiver.port").read_text())
    except (OSError, ValueError):
        return config.receiver.port


def open_journal(config: ApplianceConfig) -> Journal:
    """journal.db of this box."""
    return Journal(config.journal_db, config.state, config.device, SystemClock().stamp)


def pseudonyms(config: ApplianceConfig) -> Pseudonyms:
    """How this site names patients and studies to the outside."""
    return Pseudonyms(load_site_key(IdentityFolder(config.identity)))


_ROLES: dict[str, Callable[[ApplianceConfig], None]] = {
    "receiver": run_receiver,
    "analyser": run_analyser,
    "courier": run_courier,
    "updater": run_updater,
    "console": run_console,
}
