"""Training of the reference bundle: synthetic torsos in, networks of all three stages as one bundle out. ADR 0024.

    python -m engines.reference --work var/reference        everything, in order, resumable

    recipes         literal tables: patients, networks, what each sees
    patients        torsos at working spacing without noise, on disk as `bricks`
    scanner         a piece of a patient as scanned: kernel, dose, thickness drawn anew
    pieces, coarse  which piece a network sees at a step: detectors, localiser
    network         the U-Net and the characteriser
    calipers        what is measured of a candidate, and a network that reads nothing else
    loop            steps, moving average, checkpoints
    train           localiser and detectors; tried on other patients by `validate`
    candidates      what the first two stages bring up in patients that they don't know
    characterise    the third stage learns from that
    export          checkpoint → ONNX, checked against torch
    manifest, pack  everything → a bundle; thresholds and evidence come from `onescan-engines evaluate` and `calibrate`

Needs the extras `reference` (torch) and `cpu`. Nothing that runs on the device imports this package.
"""
