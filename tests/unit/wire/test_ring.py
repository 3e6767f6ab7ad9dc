"""The layout of a ring: fields lie apart, aligned, and every slot is its own."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arrayd.wire.ring import ALIGN, RingField, RingLayout

FIELDS = st.lists(
    st.tuples(st.sampled_from(["<f4", "|u1", "<f8"]), st.lists(st.integers(0, 4), max_size=3)),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FIELDS, st.integers(1, 300))
def test_nothing_overlaps(fields: list[tuple[str, list[int]]], slots: int) -> None:
    """What is written to one slot of one field changes that one, and the ring has room for all."""
    named = [RingField(f"f{i}", descr, tuple(shape)) for i, (descr, shape) in enumerate(fields)]
    layout = RingLayout.of(named, slots)
    ring = np.zeros(layout.nbytes, np.uint8)
    ids, arrays = layout.ids(ring), layout.arrays(ring)
    ids[:] = 1
    for value, (_, array) in enumerate(arrays.items(), start=2):
        array[:] = value
    assert (ids == 1).all()
    for value, (_, array) in enumerate(arrays.items(), start=2):
        assert array.shape[0] == slots
        assert (array == value).all()
    assert all(offset % ALIGN == 0 for offset in layout.offsets)
    assert layout.row_bytes == 8 + sum(one.row_bytes for one in named)


def test_a_field_crosses_the_wire() -> None:
    """A `RingField` is the same after the way to another process, with its dtype."""
    one = RingField("x", [("a", "<f4"), ("b", "|S3")], (2,))
    found = RingField.from_wire(one.to_wire())
    assert found.dtype == np.dtype([("a", "<f4"), ("b", "S3")])
    assert (found.name, found.row_shape, found.row_bytes) == ("x", (2,), 14)
