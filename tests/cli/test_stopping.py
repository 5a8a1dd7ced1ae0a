"""A signal stops a command, also where a library swallows what its handler raises."""

import os
import signal
import subprocess
import sys
import time

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


SERVES = """
import os, signal, sys, time
from securepfl.cli.stopping import Stopped, on_termination, serving
on_termination()
try:
    with serving("the same command goes on") as stop:
        try:
            {inside}
        finally:
            {clears}
            print("cleared", flush=True)
except Stopped as stopped:
    print(stopped, flush=True)
    sys.exit(stopped.code)
"""
WAITS = "print('ready', flush=True); time.sleep(60)"
SWALLOWS = """print('ready', flush=True)
            try:
                time.sleep(60)
            except BaseException as error:
                failed = ValueError(str(error))
            assert stop.asked
            stop.check()
            print('went on', flush=True)"""


def ended(inside, clears, *numbers):
    """Lines and code of a command that serves and gets these signals, the second while it clears up."""
    code = SERVES.format(inside=inside, clears=clears)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline().strip()]
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.3)
        lines += process.stdout.read().splitlines()
    return lines, process.returncode


@pytest.mark.parametrize("inside", [WAITS, SWALLOWS], ids=["raised", "swallowed"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_serves_clears_up_after_the_first_signal(inside, number):
    lines, code = ended(inside, "pass", number)
    assert lines == ["ready", "cleared", "interrupted; the same command goes on"] and code == 128 + number


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_it_at_once(second):
    started = time.monotonic()
    lines, code = ended(WAITS, "time.sleep(60)", signal.SIGINT, second)
    assert lines == ["ready"] and code == 128 + second and time.monotonic() - started < 30
