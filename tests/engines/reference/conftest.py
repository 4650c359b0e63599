"""One patient for all tests of training, rendered as for the real one."""

from __future__ import annotations

import pytest

from engines.reference.patients import Patient, Store

SEED = 4_000_003


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("patients"))


@pytest.fixture(scope="session")
def patient(store: Store) -> Patient:
    return store.patient(SEED)
