"""From received files to one HU volume, or to the reason why there is none.

In: paths of DICOM Part 10 files (read-only). Out: `core.volume.Volume`, or `InputRefused` with the reason that the
result will state. No network, no clock, no state.

    header.py    what the header of an image says
    kernels.py   is a reconstruction kernel soft or sharp? names differ per vendor
    stack.py     do these slices make a regular grid? if not, why not
    serving.py   the table of questions: does a series serve for a cancer?
    select.py    for each cancer the series that serves best, or why none does
    pixels.py    where the pixels of a slice are in its file
    codestream.py  does a compressed stream agree with the header? jpeg.py, jpeg2000.py read what it says of itself,
                 octets.py its bytes
    decode.py    one slice to HU
    early.py     headers and slices of a study that is still coming in
    volume.py    the chosen series to a volume

Called by `appliance.pipeline` only.
"""
