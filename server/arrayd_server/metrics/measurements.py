"""All that is measured of a daemon, as plain numbers by metric and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from arrayd.wire import protocol
from arrayd_server.metrics.meter import Counts, Distribution
from arrayd_server.metrics.sums import Sums

Labelled = Mapping[tuple[str, ...], float]
"""Values by the values of a metric's labels, in the order of `table`."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """What there is and what has happened, at one moment.

    Parameters
    ----------
    started
        When the daemon did, in Unix time.
    garbage
        Messages that were none.
    loop_lag
        In seconds.
    """

    sums: Sums
    counts: Counts
    started: float
    garbage: int
    loop_lag: float

    def values(self) -> dict[str, Labelled]:
        """Return the values of all metrics but histograms, by their names in `table`."""
        return {**self._gauges(), **self._of_events(), **self._of_streams()}

    def distributions(self) -> dict[str, dict[str, Distribution]]:
        """Return the histograms, each by the value of its label."""
        return {
            "arrayd_request_duration_seconds": self.counts.request_seconds,
            "arrayd_load_duration_seconds": self.counts.load_seconds,
        }

    def _gauges(self) -> dict[str, Labelled]:
        sums = self.sums
        return {
            "arrayd_build_info": {(protocol.PACKAGE_VERSION, str(protocol.VERSION)): 1},
            "arrayd_start_time_seconds": {(): self.started},
            "arrayd_budget_bytes": {(): sums.budget},
            "arrayd_block_bytes": {(state,): n for state, n in sums.blocks.nbytes.items()},
            "arrayd_blocks": {(state,): n for state, n in sums.blocks.number.items()},
            "arrayd_sessions": {(): sums.sessions},
            "arrayd_holds": {(): sums.holds},
            "arrayd_jobs": {(): sums.jobs},
            "arrayd_shm_free_bytes": {(): sums.shm_free},
            "arrayd_shm_size_bytes": {(): sums.shm_size},
            "arrayd_loop_lag_seconds": {(): self.loop_lag},
        }

    def _of_events(self) -> dict[str, Labelled]:
        counts, core = self.counts, self.sums.counters
        missed = max(0, core["requests"] - core["hits"] - core["joins"])
        lookups: Labelled = {("hit",): core["hits"], ("join",): core["joins"], ("miss",): missed}
        reasons = ("room", "quota", "budget", "request")
        return {
            "arrayd_requests_total": counts.requests,
            "arrayd_lookups_total": lookups,
            "arrayd_loads_total": counts.loads,
            "arrayd_load_bytes_total": {(name,): n for name, n in counts.load_bytes.items()},
            "arrayd_evictions_total": {(why,): self.sums.evicted.get(why, 0) for why in reasons},
            "arrayd_errors_total": {(code,): n for code, n in counts.errors.items()},
            "arrayd_access_denied_total": {(): counts.errors["AccessDenied"]},
            "arrayd_adopted_blocks_total": {(): core["adopted"]},
            "arrayd_recycled_loads_total": {(): core["recycled"]},
            "arrayd_stale_holds_total": {(): core["stale_holds"]},
            "arrayd_garbage_messages_total": {(): self.garbage},
        }

    def _of_streams(self) -> dict[str, Labelled]:
        streams = self.sums.streams
        return {
            "arrayd_streams": {(): streams.streams},
            "arrayd_stream_consumers": {(): streams.consumers},
            "arrayd_stream_waiting": {(): streams.waiting},
            "arrayd_stream_rows_total": {(): streams.rows},
            "arrayd_stream_read_bytes_total": {(): streams.bytes_read},
            "arrayd_stream_stall_seconds_total": {(): streams.stalled},
        }
