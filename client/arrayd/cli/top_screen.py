"""The screen of `arrayd top`, by Textual: header, table, and one line of keys, questions, words.

What is shown is computed by `arrayd.results.top_view`. The table is as high as its place and is
drawn whole; Textual sends to the terminal what has changed only, so nothing flickers.
"""

from __future__ import annotations

import asyncio
import signal
import time
from typing import ClassVar, Protocol

from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.content import Content
from textual.widgets import Static

from arrayd.common.bytesize import format_bytes
from arrayd.results import top_view
from arrayd.results.columns import beginning, cut_left
from arrayd.results.status_table import Status, duration, printable

SLOW = 3.0
"""Seconds without an answer after which the screen says so."""

_KEYS = "s size  i idle  h holders  n name  / filter  e evict  q quit"


class Feed(Protocol):
    """What the screen asks of who has the figures: see `top_feed.StatusFeed`."""

    def start(self) -> None:
        """Begin to call `TopScreen.take`."""

    def evict(self, number: int) -> None:
        """Have a block evicted, and call `TopScreen.tell`."""

    def stop(self) -> None:
        """End."""


class TopScreen(App[int]):
    """The application; it ends with an exit code."""

    CSS = """
    Screen { layout: vertical; overflow: hidden; }
    Static { height: auto; width: 100%; text-wrap: nowrap; text-overflow: clip; }
    #body { height: 1fr; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[Binding | tuple[str, str] | tuple[str, str, str]]] = [
        Binding("q", "quit"),
        Binding("ctrl+c", "interrupt", priority=True),
        Binding("s", "sort('size')"),
        Binding("i", "sort('idle')"),
        Binding("h", "sort('holders')"),
        Binding("n", "sort('name')"),
        Binding("slash", "filter"),
        Binding("e", "evict"),
        Binding("y", "answer(True)"),
        Binding("escape", "escape", priority=True),
        *(Binding(key, f"move({step})") for key, step in (("up", -1), ("down", 1))),
        *(Binding(key, f"page({step})") for key, step in (("pageup", -1), ("pagedown", 1))),
        *(Binding(key, f"move({step})") for key, step in (("home", -(10**9)), ("end", 10**9))),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.feed: Feed
        self._status: Status | None = None
        self._absent = "waiting for the daemon"
        self._answered = time.monotonic()
        self._order, self._text, self._typing = "size", "", False
        self._rows: list[top_view.TopRow] = []
        self._selected, self._first = 0, 0
        self._asking: int | None = None  # the block that it is asked about whether to evict it
        self._words = ""  # what became of the last eviction

    def compose(self) -> ComposeResult:
        """Yield the parts."""
        yield Static(id="head", markup=False)
        yield Static(id="body", markup=False)
        yield Static(id="foot", markup=False)

    def on_mount(self) -> None:
        """Begin."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):  # the terminal is put back
            loop.add_signal_handler(number, self.exit, 128 + number)
        self.feed.start()
        self.set_interval(1.0, self._show_foot)
        self._show()

    async def on_event(self, event: events.Event) -> None:
        """Take keys as text while that is typed, and any but y as a no to a question."""
        if isinstance(event, events.Key):
            self._words = ""
            if self._typing and self._typed(event):
                return
            if self._asking is not None and event.key not in ("y", "ctrl+c"):
                self.action_answer(yes=False)
                return
        await super().on_event(event)

    def on_resize(self) -> None:
        """Draw anew."""
        self.call_after_refresh(self._show)

    # ---- what the feed says ------------------------------------------------------------------

    def take(self, status: Status | None, words: str) -> None:
        """Show a status; None: there is none, and `words` say why."""
        self._status, self._absent, self._answered = status, words, time.monotonic()
        self._show()

    def tell(self, words: str) -> None:
        """Show what became of an eviction."""
        self._words = words
        self._show_foot()

    # ---- keys --------------------------------------------------------------------------------

    def action_interrupt(self) -> None:
        """End as Ctrl-C ends a program."""
        self.exit(130)

    async def action_quit(self) -> None:
        """End."""
        self.exit(0)

    def action_sort(self, order: str) -> None:
        """Sort the rows."""
        self._order, self._selected = order, 0
        self._show(keep=False)

    def action_move(self, step: int) -> None:
        """Select another row."""
        self._selected = max(0, min(len(self._rows) - 1, self._selected + step))
        self._show_foot()
        self._show_body()

    def action_page(self, pages: int) -> None:
        """Select the row that is a page away."""
        self.action_move(pages * max(1, self._height() - 1))

    def action_filter(self) -> None:
        """Let a text be typed, which rows are to contain."""
        self._typing = True
        self._show_foot()

    def action_escape(self) -> None:
        """Show all rows again."""
        self._typing = False
        self._filter("")

    def _filter(self, text: str) -> None:
        self._text, self._selected = text, 0
        self._show(keep=False)

    def _typed(self, key: events.Key) -> bool:
        """Take a key as part of the text that is typed; say whether it was."""
        if key.key == "enter":
            self._typing = False
            self._show_foot()
        elif key.key in ("backspace", "ctrl+h"):
            self._filter(self._text[:-1])
        elif key.is_printable and key.character:
            self._filter(self._text + key.character)
        else:
            return False
        return True

    def action_evict(self) -> None:
        """Ask whether the selected block shall go."""
        row = self._rows[self._selected] if self._rows else None
        if row is None or row.number is None:
            self._words = "no block is selected"
        else:
            self._asking = row.number
        self._show_foot()

    def action_answer(self, yes: bool) -> None:
        """Evict the block that was asked about, or not."""
        number, self._asking = self._asking, None
        if yes and number is not None:
            self._words = f"evicting block {number} …"
            self.feed.evict(number)
        self._show_foot()

    # ---- the parts ---------------------------------------------------------------------------

    def _show(self, *, keep: bool = True) -> None:
        """Draw all; with `keep` the row that was selected stays so, wherever it is now."""
        head, width = self.query_one("#head", Static), self.size.width
        if self._status is None:
            self._rows = []
            head.update(Content(beginning(printable(self._absent), width)))
            self.query_one("#body", Static).update("")
            self._show_foot()
            return
        before = self._rows[self._selected] if self._selected < len(self._rows) else None
        self._rows = top_view.chosen(self._status, self._order, self._text)
        if keep and before is not None:
            at = (i for i, row in enumerate(self._rows) if _same(row, before))
            self._selected = next(at, self._selected)
        self._selected = max(0, min(self._selected, len(self._rows) - 1))
        head.update(Content("\n".join(top_view.header(self._status, width))))
        self._show_foot()
        self.call_after_refresh(self._show_body)  # when it is known how high it is

    def _height(self) -> int:
        return max(1, self.query_one("#body", Static).size.height - 1)

    def _show_body(self) -> None:
        body = self.query_one("#body", Static)
        if self._status is None:
            return
        if not self._rows:
            body.update(Content("no blocks" if not self._text else "no rows contain that"))
            return
        height, width = self._height(), self.size.width
        head, *lines = top_view.table(self._rows, width)
        self._first = top_view.first_shown(self._first, self._selected, height, len(lines))
        shown = lines[self._first : self._first + height]
        parts = [Content.styled(head.ljust(width), "bold")]
        for number, line in enumerate(shown, self._first):
            selected = number == self._selected
            parts.append(
                Content.styled(line.ljust(width), "reverse") if selected else Content(line)
            )
        body.update(Content("\n").join(parts))

    def _show_foot(self) -> None:
        self.query_one("#foot", Static).update(Content(beginning(self._foot(), self.size.width)))

    def _foot(self) -> str:
        if self._asking is not None:
            return self._question(self._asking)
        if self._typing:
            return f"only rows that contain: {printable(self._text)}▏  Enter keep  Esc all rows"
        silent = time.monotonic() - self._answered
        if silent > SLOW:
            return f"no answer for {duration(silent)}   q quit"
        if self._words:
            return self._words
        filtered = f"  [{printable(self._text)}]" if self._text else ""
        return f"by {self._order}, {len(self._rows)} rows{filtered}   {_KEYS}"

    def _question(self, number: int) -> str:
        found = [row.what for row in self._rows if row.number == number]
        about = ""
        if found:
            size = format_bytes(found[0].size)
            about = f" ({size}, {cut_left(printable(found[0].source), 30)})"
        return f"evict block {number}{about}? y/n"


def _same(row: top_view.TopRow, other: top_view.TopRow) -> bool:
    return row.number == other.number and row.what.source == other.what.source
