import os
import signal

import pytest

from kkanji.cli import Terminated
from kkanji.training.signals import Interruption, leave


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_is_only_noted(number: int) -> None:
    with Interruption() as interruption:
        assert interruption.agreed() == 0
        os.kill(os.getpid(), number)
        assert interruption.agreed() == number
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_signal_interrupts_at_once() -> None:
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert interruption.agreed() == signal.SIGINT


def test_leaving_is_what_the_signal_would_have_done() -> None:
    with pytest.raises(KeyboardInterrupt):
        leave(signal.SIGINT)
    with pytest.raises(Terminated):
        leave(signal.SIGTERM)
