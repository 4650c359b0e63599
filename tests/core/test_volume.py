"""Voxel indices and patient positions are inverses, in every orientation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from core.volume import Geometry, Volume

spacings = st.floats(0.3, 10)


@given(
    spacing=st.tuples(spacings, spacings, spacings),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    index=st.tuples(*[st.floats(-50, 600)] * 3),
)
def test_index_and_position_are_inverse(
    spacing: tuple[float, float, float], angles: tuple[float, ...], index: tuple[float, float, float]
) -> None:
    axes = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    rows = [tuple(float(v) for v in row) for row in axes]
    geometry = Geometry((4, 5, 6), spacing, (-100.0, 20.0, 7.0), (rows[0], rows[1], rows[2]))  # type: ignore[arg-type]
    back = geometry.to_index(geometry.to_patient(index))
    np.testing.assert_allclose(back, index, atol=1e-6)


def test_an_axial_volume_goes_left_posterior_superior() -> None:
    geometry = Geometry((10, 20, 30), (5.0, 0.5, 0.7), (-100.0, -50.0, 200.0))
    np.testing.assert_allclose(geometry.to_patient((1, 2, 3)), (-100 + 2.1, -50 + 1, 205))
    assert geometry.is_axial()
    assert geometry.extent_mm == pytest.approx((50.0, 10.0, 21.0))


def test_a_volume_of_the_wrong_shape_or_type_is_refused() -> None:
    geometry = Geometry((1, 2, 3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="shape"):
        Volume(np.zeros((3, 2, 1), np.int16), geometry)
    with pytest.raises(ValueError, match="int16"):
        Volume(np.zeros((1, 2, 3), np.float32), geometry)  # type: ignore[arg-type]
