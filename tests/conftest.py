"""What holds for all tests."""

from __future__ import annotations

import signal

import pytest

# Tests that several modules share say what was otherwise than expected, as those in the modules do.
pytest.register_assert_rewrite("engine_protocol")

# A test run that was started in the background inherits an ignored Ctrl-C, and so would everything it starts; the
# tests of interrupts speak of a run in the foreground.
signal.signal(signal.SIGINT, signal.default_int_handler)
