"""A signal stops a command, also where a library swallows what its handler raises."""

import os
import signal

import pytest

from securepfl.cli.stopping import Stopped, on_termination, stoppable

SIGNALS = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 130}


@pytest.fixture(autouse=True)
def handlers():
    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    on_termination()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def swallowed(number):
    """As bindings do that report anything as their own error."""
    try:
        os.kill(os.getpid(), number)
        signal.sigtimedwait((), 1)
    except BaseException:  # noqa: BLE001
        raise ValueError("does not open") from None


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("sent", [os.kill, lambda _, number: swallowed(number)], ids=["raised", "swallowed"])
def test_a_signal_stops_a_command_with_its_code(number, sent):
    with pytest.raises(Stopped, match="interrupted; nothing") as caught, stoppable("nothing"):
        sent(os.getpid(), number)
    assert caught.value.code == SIGNALS[number]


def test_an_error_without_a_signal_stays_what_it_is():
    with pytest.raises(ValueError, match="does not open"), stoppable("nothing"):
        raise ValueError("does not open")
