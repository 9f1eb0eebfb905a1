"""SIGINT and SIGTERM: the first asks a run to stop, the second stops the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SHOW_CURSOR = b"\x1b[?25h"  # which a progress bar has hidden
NAMES = {signal.SIGINT: "SIGINT", signal.SIGTERM: "SIGTERM"}


class Interrupted(BaseException):
    """A signal arrived where nothing is under way that could finish first; `code` is the exit code, 130 or 143."""

    def __init__(self, signum: int) -> None:
        super().__init__(NAMES.get(signal.Signals(signum), str(signum)))
        self.code: int = 128 + signum


class Signals:
    """A context in which SIGINT and SIGTERM stop a run in order.

    Inside `waiting()` the first signal sets `stop` and nothing else: whoever runs there looks at it. Outside it raises
    `Interrupted`. A second signal calls `at_once` and ends the process without further ado, with 130 or 143. Python
    lets only the main thread handle signals: elsewhere the context changes nothing, and `stop` may be set by hand.
    """

    def __init__(self) -> None:
        self.stop: threading.Event = threading.Event()
        self.at_once: Callable[[], None] = lambda: None
        self.signum: int | None = None
        self._patient = False
        self._before: dict[int, Any] = {}

    @property
    def code(self) -> int | None:
        """128 + the number of the signal that came; None for no signal."""
        return None if self.signum is None else 128 + self.signum

    @property
    def name(self) -> str:
        return "a request" if self.signum is None else NAMES.get(signal.Signals(self.signum), str(self.signum))

    def waiting(self) -> _Waiting:
        return _Waiting(self)

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._handle) for signum in NAMES}
        return self

    def take_back(self) -> None:
        """Handle the signals again, after a library has put handlers of its own in place."""
        for signum in self._before:
            signal.signal(signum, self._handle)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, before in self._before.items():
            signal.signal(signum, before)

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum is not None:
            self.at_once()
            cursor = SHOW_CURSOR if os.isatty(2) else b""
            os.write(2, cursor + b"\ntsm-fast: stopped at once\n")
            os._exit(128 + signum)
        self.signum = signum
        self.stop.set()
        if not self._patient:
            raise Interrupted(signum)


class _Waiting:
    """The part of a run that looks at `stop` itself."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals

    def __enter__(self) -> Signals:
        self._signals._patient = True
        return self._signals

    def __exit__(self, *_: object) -> None:
        self._signals._patient = False
