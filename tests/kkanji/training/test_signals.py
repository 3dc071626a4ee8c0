"""How a training ends early, alone above all. Several ranks: tests/launch/test_processes.py."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from kkanji.cli import Terminated
from kkanji.data.dali import Batch
from kkanji.training import signals
from kkanji.training.signals import Ending, Leaving
from shards import InputError

BLANK = Batch(images=torch.zeros(2, 1, 64, 64, dtype=torch.uint8), labels=torch.zeros(2, dtype=torch.int64))
NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def ending() -> Iterator[Ending]:
    before = {number: signal.signal(number, _terminate) for number in NUMBERS}
    with Ending(BLANK) as entered:
        yield entered
    for number, handler in before.items():
        signal.signal(number, handler)


def _terminate(number: int, _: object) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)


def send(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def endless() -> Iterator[Batch]:
    while True:
        yield BLANK


def test_of_several_ranks_one_that_wants_to_leave_computes_only_the_steps_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """There the others wait for its gradients, and all learn of its wish."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'ranks'}", rank=0, world_size=1)
    try:
        monkeypatch.setattr(signals, "host_group", lambda: dist.group.WORLD)
        with Ending(BLANK) as of_ranks:
            assert of_ranks.take(endless(), last=False) is not None
            send(signal.SIGTERM)
            assert of_ranks.take(endless(), last=False) is None
            assert of_ranks.take(endless(), last=True) is BLANK
            with pytest.raises(Leaving):
                of_ranks.settle()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_ends_the_run_at_the_next_micro_batch(ending: Ending, number: int) -> None:
    """Saved, and with what the signal would have raised. What is said mentions --resume."""
    saved: list[int] = []
    ending.take(endless(), last=False)
    send(number)
    with pytest.raises(Leaving):
        ending.take(endless(), last=False)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Terminated) as caught:
        ending.leave(lambda: saved.append(1), 7)
    assert saved == [1]
    assert caught.value.__notes__ == ["the run is saved at step 7; the same command with --resume goes on from there"]
    if isinstance(caught.value, Terminated):
        assert caught.value.number == number


def test_a_signal_is_answered_at_once_with_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ending: Ending
) -> None:
    """By the longest micro-batch so far; only once."""
    moments = iter([10.0, 11.0, 13.4, 14.0])
    with monkeypatch.context() as patch:
        patch.setattr(signals, "time", SimpleNamespace(monotonic=lambda: next(moments)))
        for _ in range(4):
            ending.take(endless(), last=False)
    send(signal.SIGTERM, signal.SIGINT)
    told, deadline = "", time.monotonic() + 10
    while "\n" not in told and time.monotonic() < deadline:
        told += capsys.readouterr().err
    assert told == "SIGTERM: stopping after this micro-batch, at most about 3 s, then saving\n"


@pytest.mark.parametrize("wish", [(2, 2), (2, 15), (15, 15), (15, 2), (1, 15, 2)])
def test_signals_of_one_moment_are_one_wish(ending: Ending, wish: tuple[int, ...]) -> None:
    """A Ctrl-C comes from the terminal and from the launcher that it ends."""
    send(*wish)
    with pytest.raises(Leaving):
        ending.take(endless(), last=False)


@pytest.mark.usefixtures("ending")
def test_a_second_ctrl_c_later_interrupts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM never does: who cannot wait has SIGKILL."""
    now = time.monotonic()
    send(signal.SIGINT)
    monkeypatch.setattr(signals, "time", SimpleNamespace(monotonic=lambda: now + 3))
    send(signal.SIGTERM, signal.SIGHUP)
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Ending(BLANK) as ending:
        send(signal.SIGHUP)
        assert ending.take(endless(), last=True) is not None
    signal.signal(signal.SIGHUP, before)


def test_a_signal_of_the_launcher_after_the_end_disturbs_nothing() -> None:
    before = signal.signal(signal.SIGTERM, _terminate)
    with Ending(BLANK):
        send(signal.SIGINT)
    send(signal.SIGTERM)
    assert signal.signal(signal.SIGTERM, before) is signal.SIG_IGN


@pytest.mark.parametrize(("error", "kind"), [(InputError("gone"), InputError), (OSError(5, "gone"), OSError)])
def test_an_error_of_the_data_ends_the_run_saved(ending: Ending, error: Exception, kind: type[Exception]) -> None:
    def failing() -> Iterator[Batch]:
        raise error
        yield BLANK

    saved: list[int] = []
    with pytest.raises(Leaving):
        ending.take(failing(), last=True)
    with pytest.raises(kind, match="gone") as caught:
        ending.leave(lambda: saved.append(1), 7)
    told = " ".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert saved == [1] and "the run is saved at step 7" in told


def test_a_state_that_is_not_to_be_trusted_is_not_saved(ending: Ending) -> None:
    ending.note(None)
    ending.note(InputError("damaged"), save=False)
    with pytest.raises(Leaving):
        ending.take(endless(), last=True)
    with pytest.raises(InputError, match=r"^damaged; nothing was saved"):
        ending.leave(lambda: pytest.fail("saved"), 7)


def test_an_evaluation_is_left_after_the_batch_at_hand(ending: Ending) -> None:
    seen = []
    with pytest.raises(Leaving):
        for batch in ending.through(iter([BLANK] * 3)):
            seen.append(batch)
            send(signal.SIGTERM)
    assert len(seen) == 1


def test_a_step_that_is_left_is_undone(ending: Ending) -> None:
    """Batch statistics and gradients; the weights were not touched yet."""
    network = nn.BatchNorm1d(2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(Leaving), ending.undoing(network):
        network(torch.rand(4, 2)).sum().backward()
        raise Leaving
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.weight.grad is None
