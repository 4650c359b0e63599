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
from typing import TYPE_CHECKING

from appliance import wiring
from appliance.clock import SystemClock
from appliance.config import ApplianceConfig
from appliance.identity.keys import IdentityFolder
from appliance.parts import VERSION, days, open_journal, overview, pseudonyms
from appliance.presence import birth_body, reported_body
from appliance.role import RoleProcess
from appliance.storage.intake_journal import IntakeJournal
from appliance.storage.intake_reader import IntakeReader
from appliance.storage.journal import Journal
from appliance.storage.pace_file import PaceFile
from appliance.storage.reconciliation import ReconciliationList
from appliance.worker import Worker
from core import durable
from core.wire import DesiredBody, EventBody

if TYPE_CHECKING:
    from appliance.reading import StudyReader
    from appliance.update.updater import Report

log = logging.getLogger(__name__)

FOREVER = float("inf")
LINK_STUCK_S = 180.0
STOP_ASKING_S = 10.0
"""A fetch that is under way for longer ends with the process, and counts as an attempt."""


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

    from appliance.intake.role import ReceiverRole
    from appliance.intake.wire.bounds import Limits

    settings = config.receiver
    with ExitStack() as stack:
        process = stack.enter_context(RoleProcess("receiver", config.run))
        ledger = stack.enter_context(closing(IntakeJournal(config.intake_db, config.spool)))
        journal = stack.enter_context(closing(open_journal(config)))
        receiver = ReceiverRole(
            listeners=wiring.listeners(config),
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
            reserve_bytes=settings.reserve_bytes,
            clock=SystemClock(),
            doorbell=process.bells,
            pseudonym=pseudonyms(config).study,
            keep_studies=dt.timedelta(days=settings.keep_studies_days),
            finished=journal.finished_handovers,
            senders_file=config.senders,
            paces=PaceFile(config.intake_db),
            max_request_bytes=settings.max_request_bytes,
            commitment=wiring.commitment_service(config, stack),
            steps=wiring.step_service(config, stack),
            side_doors=wiring.side_doors(config),
        )
        stack.callback(receiver.stop)
        receiver.start()
        for name, port in zip(("receiver.port", "receiver-tls.port"), receiver.ports, strict=False):
            durable.write_text(config.run / name, str(port))
        ready = f"receives as {settings.ae_title} on port {' and '.join(map(str, receiver.ports))}"
        if receiver.stow_port is not None:
            durable.write_text(config.run / "receiver-stow.port", str(receiver.stow_port))
            ready += f", STOW-RS on port {receiver.stow_port}"
        process.turn(lambda: FOREVER, ready, alive=lambda: receiver.alive)


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
        stack.callback(analyser.stop)

        def step() -> float:
            wait = analyser.step()
            if analyser.rest():
                log.info("idle: the role starts afresh, which gives all memory of models and libraries back")
                process.stopping.set()
            return wait

        process.turn(step, "waits for studies", longest_s=settings.deadline_s + 300.0)


EARLY_PART = 4
"""Of the memory for one analysis, slices may take this part before their study is complete; no network runs then."""


def study_reader(config: ApplianceConfig, journal: Journal, process: RoleProcess) -> StudyReader:
    """What the analyser reads studies with."""
    from appliance.models import Models, series_rules
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
            rules=series_rules(opened.asked, settings.series),
            most_volume_bytes=min(settings.max_volume_mb, settings.memory_mb) << 20,
        )

    return StudyReader(desk, models.rest, most_early_bytes=(settings.memory_mb << 20) // EARLY_PART)


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
        asking = None
        if config.reconciliation.names:
            reconciler = wiring.reconciler(config, missed, clock, process.stopping)
            asking = Worker("reconciliation", reconciler.step)
            stack.callback(asking.stop, STOP_ASKING_S)
            asking.start()
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
            days=days(config, missed).counts,
        )

        def alive() -> bool:
            return link.idle_s < LINK_STUCK_S and (asking is None or asking.alive)

        process.turn(courier.step, "delivers", alive=alive, longest_s=600.0)


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


_ROLES: dict[str, Callable[[ApplianceConfig], None]] = {
    "receiver": run_receiver,
    "analyser": run_analyser,
    "courier": run_courier,
    "updater": run_updater,
    "console": run_console,
}
