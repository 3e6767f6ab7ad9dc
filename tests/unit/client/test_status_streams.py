"""The streams of a status, as a table, as HTML and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

from arrayd.results import status_table
from arrayd.results.status import ConsumerStatus, StreamStatus
from arrayd.results.status_table import Status
from tests.unit.client.test_status import NOBODY, ROOT, G, block, status

STREAM = StreamStatus(
    number=3,
    source="train.manifest[0:1000] (x, y; exact, seed 7)",
    order="exact",
    state="reading",
    rows=1000,
    slots=256,
    generation=0,
    head=2410,
    planned=2538,
    epoch=2,
    ring_bytes=96 << 20,
    share_bytes=int(1.2 * G),
    bytes_read=1040,
    bytes_used=1000,
    age=100.0,
    consumers=(
        ConsumerStatus(7, 9911, 0, "a.py", 2400, None, 10, 4, 3.2, 0.1, False, 100.0),
        ConsumerStatus(8, 0, NOBODY, "b\x1b.py", 1999, 3000, 411, 0, 0.0, 9.0, True, 0.0),
    ),
)


def test_streams_have_a_table_of_their_own() -> None:
    """A row for each stream and each consumer, below the blocks."""
    shown = status_table.text(status(streams=(STREAM,))).splitlines()[-4:]
    assert [" ".join(line.split()) for line in shown] == [
        "STREAM AT LAG STALLED STATE SOURCE",
        "3 epoch 2, 41 % - - reading train.manifest[0:1000] (x, y; exact, seed 7), read 1.04 × "
        "used, ring 96.0 MiB, share 1.2 GiB",
        f"3 epoch 2, 40 % 10 3 % attached 9911 a.py {ROOT}",
        f"3 epoch 1, 99 % 411 0 % detached ? b?.py {NOBODY}",
    ]
    assert max(map(len, status_table.text(status(streams=(STREAM,)), 60).splitlines())) <= 60
    often = status(streams=(replace(STREAM, windowed=True),))
    assert "seed 7), windowed, read 1.04 × used" in status_table.text(often)
    html = status(block(), streams=(STREAM,))._repr_html_()
    assert html.count("<tr>") == 2 + 4
    whole = status(streams=(STREAM,))
    assert Status.from_wire(json.loads(json.dumps(whole.to_json()))) == whole
