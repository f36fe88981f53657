"""A process that is asked to end does so with the status that says it, whatever code the signal interrupts."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress

import pytest

from mmsafe.core.endings import ended_at_once
from mmsafe.core.errors import UserError
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.runs import app

SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]


def no_job(cfg: object, config: object) -> None:
    raise AssertionError("a job began")


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_ends_with_its_own_status(number: signal.Signals, status: int):
    with pytest.raises(SystemExit) as ended, ended_at_once():
        signal.raise_signal(number)
    assert ended.value.code == status


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_an_error_on_the_way_out_does_not_hide_the_signal(number: signal.Signals, status: int):
    def omegaconf_like() -> None:
        try:
            signal.raise_signal(number)
        except BaseException as end:
            raise AssertionError from end

    with pytest.raises(SystemExit) as ended, ended_at_once():
        omegaconf_like()
    assert ended.value.code == status


def test_code_that_goes_on_all_the_same_is_ended_after_it():
    with pytest.raises(SystemExit) as ended, ended_at_once(), suppress(SystemExit):
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143


def test_afterwards_signals_mean_what_they_did():
    before = [signal.getsignal(number) for number, _ in SIGNALS]
    with ended_at_once():
        assert [signal.getsignal(number) for number, _ in SIGNALS] != before
    assert [signal.getsignal(number) for number, _ in SIGNALS] == before


def test_a_command_that_is_stopped_while_it_checks_its_config_does_not_call_it_bad_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """OmegaConf raises an error of its own where the signal cuts into it, and composing makes a `UserError` of that."""

    def check(*_: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except SystemExit as end:
            raise UserError("hydra.run.dir=run: ") from end

    monkeypatch.setattr(app, "check_arguments", check)
    monkeypatch.setattr(sys, "argv", ["mmsafe.train"])
    with pytest.raises(SystemExit) as ended:
        app.entry_point("train", TrainConfig, no_job)()
    assert ended.value.code == 143
    assert capsys.readouterr().err == ""
