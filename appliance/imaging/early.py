"""What can be read of a study while it is still coming in: its headers, and its slices in HU.

A cache and nothing else: what is not here, `headers_of` and `decoder` read as they would without it, and the outcome is
the same bit for bit. Compressed slices pass `codestream` before a decoder here as there; should one end the process all
the same, the analyser's note keeps the study from being read ahead again.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable, Sequence

import numpy as np

from appliance.imaging.codestream import COMPRESSED
from appliance.imaging.decode import Slice, SliceDecoder
from appliance.imaging.header import CT_IMAGE, ImageHeader, read_headers
from appliance.imaging.pixels import NATIVE
from appliance.imaging.select import may_be_slice
from appliance.ports import StoredInstance

log = logging.getLogger(__name__)

_READ_EARLY = NATIVE | COMPRESSED
_LARGEST_SLICE = 32 << 20
"""4096 x 4096. Of a volume with larger ones the limit is asked first, before a decoder makes room for one."""
_HEADER_BYTES = 4096
"""What a header takes in memory, generously."""
_VALUE_BYTES = np.dtype(np.int16).itemsize


class EarlySlices:
    """Of one study at a time, at most `most_bytes` of headers and slices; what does not fit is read later."""

    def __init__(self, most_bytes: int = 0) -> None:
        self._most_bytes = most_bytes
        self._study_uid = ""
        self._headers: dict[StoredInstance, tuple[ImageHeader, ...]] = {}
        self._slices: dict[ImageHeader, Slice] = {}
        self._slice_bytes = 0  # of all of them: asked for with every image

    @property
    def count(self) -> int:
        """Slices that are decoded and here."""
        return len(self._slices)

    @property
    def held_bytes(self) -> int:
        """Memory of all that is here."""
        return len(self._headers) * _HEADER_BYTES + self._slice_bytes

    def take(self, study_uid: str, instance: StoredInstance) -> None:
        """Read an instance, and decode it if `select` may take it for a slice. Another study's are given up.

        What fails is left: read at its time, it gives the answer.
        """
        if study_uid != self._study_uid:
            self.forget()
            self._study_uid = study_uid
        if instance.sop_class_uid != CT_IMAGE or self._room < _HEADER_BYTES or instance in self._headers:
            return
        try:
            (header,) = self._headers[instance] = read_headers(instance.extent)
            size = header.rows * header.columns * _VALUE_BYTES
            if header.transfer_syntax in _READ_EARLY and may_be_slice(header) and size <= self._most_now:
                hu = self._slices[header] = _in_pages_of_its_own(SliceDecoder()(header))
                self._slice_bytes += hu.nbytes
        except Exception as error:  # the edge: nothing of this may keep a study from being read
            log.debug("an image is left for later (%s)", type(error).__name__)

    def keep(self, study_uid: str, instances: Sequence[StoredInstance]) -> None:
        """Give up whatever is not of these instances: same study, UID, content and place in the spool."""
        named = {*instances} if study_uid == self._study_uid else set()
        self._headers = {instance: headers for instance, headers in self._headers.items() if instance in named}
        self._keep_slices({header for headers in self._headers.values() for header in headers})

    def headers_of(self, instance: StoredInstance) -> tuple[ImageHeader, ...]:
        """The headers of an instance, as `read_headers` gives them."""
        return self._headers.get(instance) or read_headers(instance.extent)

    def decoder(self, headers: Sequence[ImageHeader]) -> Callable[[ImageHeader], Slice]:
        """Gives slices of this series in HU, as a `SliceDecoder` does, and gives up each that it gave.

        The slices of other series are given up now, so that no more is held than what one volume takes.
        """
        self._keep_slices({*headers})
        decode = SliceDecoder()

        def slice_of(header: ImageHeader) -> Slice:
            hu = self._slices.pop(header, None)
            if hu is None:
                return decode(header)
            self._slice_bytes -= hu.nbytes
            return hu

        return slice_of

    def forget(self) -> None:
        """Give up everything."""
        self._study_uid = ""
        self._headers.clear()
        self._keep_slices(set())

    @property
    def _most_now(self) -> int:
        return min(_LARGEST_SLICE, self._room)

    @property
    def _room(self) -> int:
        return self._most_bytes - self.held_bytes

    def _keep_slices(self, headers: set[ImageHeader]) -> None:
        self._slices = {header: hu for header, hu in self._slices.items() if header in headers}
        self._slice_bytes = sum(hu.nbytes for hu in self._slices.values())


def _in_pages_of_its_own(hu: Slice) -> Slice:
    """A copy that goes back to the system as soon as it is given up: of the heap, only what lies on top does."""
    pages = mmap.mmap(-1, hu.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    copy: Slice = np.ndarray(hu.shape, hu.dtype, buffer=pages)
    copy[:] = hu
    return copy
