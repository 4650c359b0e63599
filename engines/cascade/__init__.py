"""HU volume in, seven answers out: organs are localised, lesions looked for in each, rules turn scores into answers.

Called by the appliance's analyser and updater and by `onescan-engines`. `Cascade(bundle, runtime).analyse(...)` is the
way in; the stages are `orientation`, `preprocess`, `localise`, `region`, `tiles`, `detect`, `candidates`, `lesions` and
`rules`, in the order of the data. Only `rules` decides what is said.
"""

from __future__ import annotations

from engines.cascade.budget import Budget, Cancelled
from engines.cascade.cascade import Analysis, Cascade, Look
from engines.cascade.rules import PatientContext

__all__ = ["Analysis", "Budget", "Cancelled", "Cascade", "Look", "PatientContext"]
