"""Resampling keeps constants, positions and means; orientation is a pure relabelling of voxels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InputRefused
from core.finding import Reason
from core.volume import Geometry, Vector, Volume
from engines.cascade.orientation import Orientation, orientation_of
from engines.cascade.preprocess import Grid, axis_weights, interpolate, resample

spacings = st.floats(0.4, 7.0)
sizes = st.integers(1, 40)


@given(n=sizes, source=spacings, target=spacings)
def test_weights_of_every_target_voxel_sum_to_one_and_none_is_negative(n: int, source: float, target: float) -> None:
    grid = Grid((n, 1, 1), (source, 1, 1), (target, 1, 1))
    weights = grid.axis_weights(0, 0, grid.shape[0]).toarray()
    assert weights.shape == (grid.shape[0], n)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert weights.min() >= -1e-6


@given(n=st.integers(3, 40), source=spacings, target=spacings)
def test_a_ramp_stays_the_same_ramp_inside_the_volume(n: int, source: float, target: float) -> None:
    grid = Grid((n, 1, 1), (source, 1, 1), (target, 1, 1))
    ramp = (np.arange(n) + 0.5) * source  # position in mm from the corner
    result = grid.axis_weights(0, 0, grid.shape[0]) @ ramp
    centres = (np.arange(grid.shape[0]) + 0.5) * target
    # One source voxel from either end the interpolant is exact; beyond, the outermost value goes on.
    inside = (centres - target / 2 >= source / 2) & (centres + target / 2 <= n * source - source / 2)
    np.testing.assert_allclose(result[inside], centres[inside], rtol=1e-4, atol=1e-3)


@given(n=sizes, spacing=spacings)
def test_the_same_spacing_changes_nothing(n: int, spacing: float) -> None:
    np.testing.assert_allclose(axis_weights(n, spacing, spacing, 0, n).toarray(), np.eye(n), atol=1e-6)


@given(n=st.integers(2, 20), factor=st.integers(2, 5))
def test_the_mean_is_kept_when_voxels_are_merged(n: int, factor: int) -> None:
    source = np.random.default_rng(n).normal(size=n * factor)
    merged = axis_weights(n * factor, 1, factor, 0, n) @ source
    assert abs(merged.mean() - source.mean()) < 0.51 * np.abs(source).max() / n  # only the ends may differ


volumes = st.tuples(st.tuples(sizes, sizes, sizes), st.tuples(spacings, spacings, spacings))


@settings(max_examples=30)
@given(volume=volumes, target=st.tuples(spacings, spacings, spacings), value=st.integers(-1024, 3000))
def test_a_constant_volume_stays_constant_in_three_dimensions(
    volume: tuple[tuple[int, int, int], Vector], target: Vector, value: int
) -> None:
    shape, spacing = volume
    grid = Grid(shape, spacing, target)
    result = resample(np.full(shape, value, np.int16), grid, ((0, 0, 0), grid.shape))
    assert result.shape == grid.shape
    np.testing.assert_allclose(result, value, rtol=1e-5, atol=0.01)


@settings(max_examples=30)
@given(data=st.data())
def test_a_box_of_the_grid_is_that_part_of_the_whole_grid(data: st.DataObject) -> None:
    shape, spacing = data.draw(volumes)
    grid = Grid(shape, spacing, data.draw(st.tuples(spacings, spacings, spacings)))
    hu = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in grid.shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, grid.shape, strict=True))
    whole = resample(hu, grid, ((0, 0, 0), grid.shape))
    part = resample(hu, grid, (start, stop))  # type: ignore[arg-type]
    where = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    np.testing.assert_allclose(part, whole[where], atol=0.01)


def test_slab_by_slab_is_the_same_as_all_at_once() -> None:
    hu = np.random.default_rng(0).integers(-1000, 1000, (70, 30, 20)).astype(np.int16)
    grid = Grid((70, 30, 20), (1.0, 0.8, 0.8), (2.3, 2.0, 0.5))
    weights = [grid.axis_weights(axis, 0, grid.shape[axis]) for axis in range(3)]
    expected = np.einsum("az,by,cx,zyx->abc", *(w.toarray() for w in weights), hu.astype(np.float64), optimize=True)
    np.testing.assert_allclose(resample(hu, grid, ((0, 0, 0), grid.shape)), expected, atol=0.01)
    np.testing.assert_allclose(interpolate(hu.astype(np.float32), *weights), expected, atol=0.01)


@given(volume=volumes, target=st.tuples(spacings, spacings, spacings))
def test_a_grid_covers_its_source_and_its_boxes_find_it_again(
    volume: tuple[tuple[int, int, int], Vector], target: Vector
) -> None:
    shape, spacing = volume
    grid = Grid(shape, spacing, target)
    for n, s, m, t in zip(shape, spacing, grid.shape, target, strict=True):
        assert m * t >= n * s - 1e-3
        assert (m - 1) * t < n * s or m == 1
    assert grid.source_box(((0, 0, 0), grid.shape)) == ((0, 0, 0), shape)


def _geometries() -> list[Geometry]:
    """All 48 ways in which a grid can lie along the patient's axes."""
    result = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            rows = []
            for axis, sign in zip(order, signs, strict=True):
                row = [0.0, 0.0, 0.0]
                row[axis] = sign
                rows.append(tuple(row))
            result.append(Geometry((3, 4, 5), (3.0, 2.0, 1.0), (10.0, -20.0, 30.0), tuple(rows)))  # type: ignore[arg-type]
    return result


@pytest.mark.parametrize("geometry", _geometries())
def test_in_canonical_order_indices_grow_to_superior_posterior_and_left(geometry: Geometry) -> None:
    """Each voxel carries its own position; in the canonical view positions must grow along the right axes."""
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"), axis=-1)
    positions = geometry.to_patient(indices)
    orientation = orientation_of(geometry)
    for axis, patient_axis in ((0, 2), (1, 1), (2, 0)):
        along = orientation.view(positions[..., patient_axis].copy())
        steps = np.diff(along, axis=axis)
        np.testing.assert_allclose(steps, orientation.spacing(geometry.spacing_mm)[axis])
    assert orientation.view(positions[..., 0].copy()).shape == orientation.canonical_shape


@pytest.mark.parametrize("geometry", _geometries())
def test_points_and_boxes_find_back_to_the_source(geometry: Geometry) -> None:
    orientation = orientation_of(geometry)
    source = np.zeros(geometry.shape)
    view = orientation.view(source)
    start, stop = (0, 1, 0), tuple(n - 1 for n in orientation.canonical_shape)
    view[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    (z0, y0, x0), (z1, y1, x1) = orientation.to_source_box((start, stop))  # type: ignore[arg-type]
    assert source[z0:z1, y0:y1, x0:x1].all()
    assert source.sum() == (z1 - z0) * (y1 - y0) * (x1 - x0)
    source[...] = 0
    view[1, 2, 1] = 1
    z, y, x = orientation.to_source_point((1, 2, 1))
    assert source[int(z), int(y), int(x)] == 1


def test_a_slightly_rotated_grid_is_taken_and_a_strongly_rotated_one_refused() -> None:
    def rotated(degrees: float) -> Geometry:
        c, s = float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))
        return Geometry((4, 4, 4), (1, 1, 1), (0, 0, 0), ((0.0, -s, c), (0.0, c, s), (1.0, 0.0, 0.0)))

    assert orientation_of(rotated(20)) == Orientation((4, 4, 4), (0, 1, 2), (False, False, False))
    with pytest.raises(InputRefused) as refusal:
        orientation_of(rotated(40))
    assert refusal.value.reason is Reason.NO_AXIAL_SERIES
    assert "40°" in refusal.value.detail


def test_a_view_is_no_copy() -> None:
    volume = Volume(np.zeros((3, 4, 5), np.int16), _geometries()[-1])
    orientation_of(volume.geometry).view(volume.hu)[...] = 7
    assert (volume.hu == 7).all()
