"""Parts of the box that roles, pages and commands share, as the configuration has them."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from appliance.clock import SystemClock
from appliance.config import ApplianceConfig
from appliance.identity.keys import IdentityFolder
from appliance.identity.pseudonyms import Pseudonyms, load_site_key
from appliance.presence import read_manifest
from appliance.storage.intake_reader import IntakeReader
from appliance.storage.journal import Journal
from appliance.storage.reconciliation import ReconciliationList

if TYPE_CHECKING:
    from appliance.days import Days
    from appliance.overview import JournalOverview

VERSION = metadata.version("onescan")


def days(config: ApplianceConfig, missed: ReconciliationList) -> Days:
    """What was performed, received, analysed, delivered on each day."""
    from appliance.days import Days

    intake = IntakeReader(config.intake_db, config.spool)
    asked = config.reconciliation
    return Days(missed, intake, SystemClock(), asked.names, reviews=bool(asked.reviewed_by))


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
