"""From scores of cases with a known outcome to what a bundle may claim.

    cases      the file of cases: who is for tuning, who for judging, truth and raw score for each cancer
    judging    calibration and thresholds from the tuning cases, evidence from the judging cases alone

The fits and intervals are `engines.calibration`'s; `onescan-engines calibrate` writes the result into a new bundle.
"""
