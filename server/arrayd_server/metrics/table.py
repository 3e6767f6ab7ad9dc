"""All metrics: name, kind, what it says, and its labels. A label is never a user, path or process.

Names are those of https://prometheus.io/docs/practices/naming: base units, and ``_total`` for what
only grows.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, as Prometheus knows it.

    Parameters
    ----------
    kind
        ``gauge``, ``counter``, ``histogram`` or ``info``.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


METRICS = {
    metric.name: metric
    for metric in (
        Metric("arrayd_build_info", "info", "The version that runs.", ("version", "protocol")),
        Metric("arrayd_start_time_seconds", "gauge", "When the daemon started, in Unix time."),
        Metric("arrayd_budget_bytes", "gauge", "Bytes that blocks may have: the option budget."),
        Metric(
            "arrayd_block_bytes",
            "gauge",
            "Bytes of blocks: held by a session; pinned or idle, held by none; mapped outside any "
            "session (stray); being made (loading); on their way back to the kernel (leaving); "
            "kept for the next load (recycled). Their sum is what counts against the budget.",
            ("state",),
        ),
        Metric("arrayd_blocks", "gauge", "How many blocks, by the same states.", ("state",)),
        Metric("arrayd_sessions", "gauge", "Clients that are connected."),
        Metric("arrayd_holds", "gauge", "Pairs of a session and a block that it holds."),
        Metric("arrayd_jobs", "gauge", "Blocks that are being looked up, waited for or made."),
        Metric("arrayd_shm_free_bytes", "gauge", "Bytes that /dev/shm still gives."),
        Metric("arrayd_shm_size_bytes", "gauge", "Bytes that /dev/shm gives at most."),
        Metric(
            "arrayd_requests_total",
            "counter",
            "Requests that are over; dropped: cancelled, its session has ended, or to be repeated.",
            ("verb", "outcome"),
        ),
        Metric(
            "arrayd_request_duration_seconds",
            "histogram",
            "From a request to the last of its answers, a load that it waits for included.",
            ("verb",),
        ),
        Metric(
            "arrayd_lookups_total",
            "counter",
            "Arrays asked for: in memory (hit), on their way already (join), or neither (miss).",
            ("result",),
        ),
        Metric("arrayd_loads_total", "counter", "Loads that have ended.", ("format", "outcome")),
        Metric("arrayd_load_bytes_total", "counter", "Bytes of arrays loaded.", ("format",)),
        Metric(
            "arrayd_load_duration_seconds",
            "histogram",
            "From the moment that a load has its block to its last row.",
            ("format",),
        ),
        Metric(
            "arrayd_evictions_total",
            "counter",
            "Idle blocks freed: for a load (room), for another of the same user (quota), for a "
            "smaller budget, or because somebody asked (request).",
            ("reason",),
        ),
        Metric(
            "arrayd_errors_total",
            "counter",
            "Errors that clients were answered with. NoRoom-loads is for a quota of loads: most of "
            "these are asked for again when others have been loaded.",
            ("code",),
        ),
        Metric("arrayd_access_denied_total", "counter", "Those of them that are AccessDenied."),
        Metric("arrayd_adopted_blocks_total", "counter", "Blocks taken over from an earlier run."),
        Metric("arrayd_recycled_loads_total", "counter", "Loads that began with pages of a block."),
        Metric(
            "arrayd_stale_holds_total", "counter", "Holds dropped, for nobody mapped the block."
        ),
        Metric("arrayd_garbage_messages_total", "counter", "Messages that were none."),
        Metric("arrayd_streams", "gauge", "Streams that are open."),
        Metric("arrayd_stream_consumers", "gauge", "Those who read from streams."),
        Metric("arrayd_stream_waiting", "gauge", "Those of them that wait for rows now."),
        Metric(
            "arrayd_stream_rows_total", "counter", "Rows that were put into the rings of streams."
        ),
        Metric("arrayd_stream_read_bytes_total", "counter", "Bytes of files read for that."),
        Metric(
            "arrayd_stream_stall_seconds_total",
            "counter",
            "Seconds that consumers have waited for rows, summed over all; waits that have ended.",
        ),
        Metric(
            "arrayd_loop_lag_seconds",
            "gauge",
            "The longest time in the last 15 to 30 s that something on the daemon's loop was late.",
        ),
    )
}
"""By name."""
