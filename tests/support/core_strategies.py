"""What a random walk over the core may ask for: sessions, files, names, drafts, times."""

from __future__ import annotations

import math
import os

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings

from arrayd_server.core.model import Draft
from arrayd_server.core.quotas import Limits
from tests.support.core_files import SPEC, File, wanted, wanted_name

PIDS = {b"a": 1, b"b": 1, b"c": 2}
"""The process of each session."""

sessions = st.sampled_from(sorted(PIDS))
sizes = st.sampled_from([25, 40, 60, 25, 40, 60, 101])
picks = st.integers(0, 11)
names = st.sampled_from(["n", "n", "m"])
waits = st.sampled_from([0.0, 1.0, 10.0])
pins = st.sampled_from([0.0, 0.0, 7.0, math.inf])
files = st.builds(
    lambda size, rows, linked: File(f"{'l' * linked}f{size}", size, rows, linked),
    sizes,
    st.sampled_from([None, None, "half", "full"]),
    st.sampled_from([False, False, True]),
)
small_files = st.builds(File, st.sampled_from(["f25", "f40", "g25", "h25"]), st.just(10))
"""One of them has a name of `files`, and so its key."""
drafts = st.builds(
    Draft,
    st.just(SPEC),
    sizes,
    st.just("put"),
    names | st.none(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, None, "all", "group:8"]),
)
requests = st.one_of(
    st.builds(wanted, files, st.sampled_from("aab")), st.builds(wanted_name, names)
)

limits = st.builds(
    Limits,
    bytes=st.sampled_from([None, 0, 30, 61, 61, 90]),
    soft_bytes=st.sampled_from([None, 0, 30]),
    pinned=st.sampled_from([None, None, None, 0, 45]),
    blocks=st.sampled_from([None, None, None, 0, 1, 2]),
    loads=st.sampled_from([None, None, None, 0, 1]),
)

_MANY = int(os.environ.get("ARRAYD_TEST_WALKS", "0"))

WALKS = settings(
    max_examples=_MANY or 200,
    stateful_step_count=80,
    deadline=None,
    derandomize=not _MANY,
    print_blob=True,
    report_multiple_bugs=False,
    database=None,
    suppress_health_check=list(HealthCheck),
)
"""How many walks, and how long: see `test_registry_stateful`."""
