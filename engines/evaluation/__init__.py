"""Judge answers against truth, and make of scores what a bundle may claim.

    studies      a study with its truth; from  torsos, volumes, table (and `appliance.evaluate`)
    running      all of them through a bundle, in shards: scoring, pictures  ──▶  results
    measuring    results ──▶ figures (`evaluation.json`): counting, grouping, statistics (clusters), froc
    comparing    two bundles on the same cases
    report       figures ──▶ a page for people
    handing_on   results ──▶ cases

    cases        the file of cases: who is for tuning, who for judging, truth and raw score for each cancer
    judging      calibration and thresholds from the tuning cases, evidence from the judging cases alone

The fits and thresholds are `engines.calibration`'s; `onescan-engines calibrate` writes the result into a new bundle.
`baseline` and `observer` say how hard the synthetic cases are.
"""
