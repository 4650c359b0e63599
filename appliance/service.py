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
from appliance.config import ApplianceConfig
from appliance.identity.keys import IdentityFolder
from appliance.identity.pseudonyms import Pseudonyms, load_site_key
from appliance.role import RoleProcess
from appliance.storage.intake_journal import IntakeJournal, IntakeReader
from appliance.storage.journal import Journal
from core import durable
from core.wire import EventBody

if TYPE_CHECKING:
    from appliance.overview import JournalOverview

log = logging.getLogger(__name__)

FOREVER = float("inf")


def run(role: str, config: ApplianceConfig) -> None:
    """Run one role until SIGTERM."""
    for folder in (config.state, config.spool, config.objects, config.bundles, config.run):
        durable.make_folder(folder, 0o2770)
    _ROLES[role](config)


def run_receiver(config: ApplianceConfig) -> None:
    """DICOM in: durable before success, complete when the geometry says so."""
    import datetime as dt

    from appliance.intake.role import ReceiverRole

    settings = config.receiver
    with ExitStack() as stack:
        process = stack.enter_context(RoleProcess("receiver", config.run))
        ledger = stack.enter_context(closing(IntakeJournal(config.intake_db, config.spool)))
        journal = stack.enter_context(closing(open_journal(config)))
        receiver = ReceiverRole(
            host=settings.host,
            port=settings.port,
            ae_title=settings.ae_title,
            calling_ae_titles=settings.calling_ae_titles,
            spool=config.spool,
            ledger=ledger,
            quiet_seconds=settings.quiet_seconds,
            min_free_bytes=settings.min_free_bytes,
            clock=SystemClock(),
            doorbell=process.bells,
            pseudonym=pseudonyms(config).study,
            max_associations=settings.max_associations,
            keep_studies=dt.timedelta(days=settings.keep_studies_days),
            finished=journal.finished_handovers,
        )
        stack.callback(receiver.stop)
        receiver.start()
        durable.write_text(config.run / "receiver.port", str(receiver.port))
        process.turn(lambda: FOREVER, f"receives as {settings.ae_title} on port {receiver.port}", receiver_alive(receiver))


def run_analyser(config: ApplianceConfig) -> None:
    """Hand-overs in, answers out, one study after the other."""
    from appliance.analyser import Analyser
    from appliance.models import Models
    from appliance.pipeline import Desk
    from appliance.reporting import Equipment
    from engines.cascade import Budget
    from engines.runtime.choice import choose

    settings = config.analyser
    names = pseudonyms(config)
    with ExitStack() as stack:
        process = stack.enter_context(RoleProcess("analyser", config.run))
        journal = stack.enter_context(closing(open_journal(config)))
        budget = Budget(memory_mb=settings.memory_mb, deadline_s=settings.deadline_s)

        def runtime():  # type: ignore[no-untyped-def]
            choice = choose(settings.runtime, settings.threads)
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
                equipment=Equipment(
                    serial=f"{config.site}.{config.device}",
                    software_version=metadata.version("onescan"),
                    institution=config.institution,
                ),
                state=config.state,
                objects=config.objects,
                now=clock.now,
                cancelled=process.stopping.is_set,
            )

        clock = SystemClock()
        analyser = Analyser(
            journal=journal,
            intake=IntakeReader(config.intake_db, config.spool),
            desk=desk,
            pseudonym=names.study,
            clock=clock,
            bells=process.bells,
            destinations=[destination.name for destination in config.pacs],
            max_attempts=settings.max_attempts,
        )

        def step() -> float:
            wait = analyser.step()
            models.rest()
            return wait

        process.turn(step, "waits for studies")


def open_journal(config: ApplianceConfig) -> Journal:
    """journal.db of this box."""
    return Journal(config.journal_db, config.state, config.device, SystemClock().stamp)


def pseudonyms(config: ApplianceConfig) -> Pseudonyms:
    """How this site names patients and studies to the outside."""
    return Pseudonyms(load_site_key(IdentityFolder(config.identity)))


_ROLES: dict[str, Callable[[ApplianceConfig], None]] = {
    "receiver": run_receiver,
    "analyser": run_analyser,
}
