"""What a random walk over the core may ask for: sessions, files, names, drafts, times."""

from __future__ import annotations

import math

import hypothesis.strategies as st

from arrayd_server.core.records import Draft
from tests.core_naive import SPEC, File, wanted, wanted_name

PIDS = {b"a": 1, b"b": 1, b"c": 2}
"""The process of each session."""

sessions = st.sampled_from(sorted(PIDS))
sizes = st.sampled_from([25, 40, 60, 25, 40, 60, 101])
picks = st.integers(0, 11)
names = st.sampled_from(["n", "n", "m"])
waits = st.sampled_from([0.0, 1.0, 10.0])
pins = st.sampled_from([0.0, 0.0, 7.0, math.inf])
files = st.builds(
    lambda size, rows: File(f"f{size}", size, rows),
    sizes,
    st.sampled_from([None, None, "half", "full"]),
)
drafts = st.builds(
    Draft,
    st.just(SPEC),
    sizes,
    st.just("put"),
    names | st.none(),
    st.booleans(),
    st.booleans(),
)
wishes = st.one_of(st.builds(wanted, files, st.sampled_from("aab")), st.builds(wanted_name, names))
