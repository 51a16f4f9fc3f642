"""Signals that arrive while a run trains."""

import os
import signal

import pytest

from fiveline.record.script import Signals


def test_a_second_ctrl_c_in_a_notebook_interrupts_the_cell_and_not_the_kernel():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where no script of ours has set its own
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.received == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
