"""Runs that torchrun or SLURM start: the same as one process, stopped and continued, refused where it cannot work."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import slurm
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from mmsafe.core.config import conf_dir
from mmsafe.core.errors import UserError
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.runs.preflight import check

RUN = (
    *("model=random", "data.size=18", "data.test_size=8", "evaluate=false", "trainer.accelerator=cpu"),
    *("trainer.max_epochs=8", "trainer.progress_bar=false", "optimizer.lr=1e-3", "optimizer.global_batch_size=8"),
)
STEPS = 24  # 3 of each epoch: 8, 8 and 2 of the 18 items


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "mmsafe.train", *words, *RUN]


def rows(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{name: float(row[name]) for name in ("train/loss", "logps/chosen")} for row in csv.DictReader(file)]


def same_as_one_process(run: Path, one: Path) -> None:
    found, expected = rows(run / "metrics.csv"), rows(one / "metrics.csv")
    assert len(found) == len(expected) == STEPS
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert json.loads((run / "metrics.json").read_text())["train/steps"] == STEPS


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("one")
    words = command("objective=dpo", "data.batch_size=8", f"hydra.run.dir={folder}")
    subprocess.run(words, check=True, env=os.environ | {"MMSAFE_CACHE": str(folder / "cache")}, timeout=150)
    return folder


@pytest.fixture
def environment(one: Path, tmp_path: Path) -> dict[str, str]:
    """SLURM's commands, and the cache of the run of one process."""
    return os.environ | slurm.install(tmp_path / "bin") | {"MMSAFE_CACHE": str(one / "cache")}


def launcher(*overrides: str, root: str = "train") -> dict[str, Any]:
    """What SLURM would be asked for; the interpolations resolved."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose(root, ["hydra/launcher=slurm", "hydra.sweep.dir=sweep", *overrides], return_hydra_config=True)
    names = [name for name in cfg.hydra.launcher if name != "additional_parameters"]
    return {str(name): cfg.hydra.launcher[name] for name in names}


@pytest.mark.parametrize(("devices", "nodes"), [(1, 1), (8, 1), (8, 2)])
def test_slurm_gives_every_device_of_the_trainer_a_task(devices: int, nodes: int):
    found = launcher(f"trainer.devices={devices}", f"trainer.num_nodes={nodes}")
    assert found["nodes"] == nodes
    assert found["tasks_per_node"] == found["gpus_per_node"] == devices
    assert found["signal_delay_s"] == 300
    assert found["timeout_min"] == 1440
    assert found["max_num_timeout"] == 20
    assert found["submitit_folder"] == "sweep/.submitit/%j"
    assert found["_target_"] == "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"


def test_slurm_8gpu_takes_machines_whole():
    found = launcher("hydra/launcher=slurm_8gpu", "trainer.devices=8", "trainer.num_nodes=2")
    assert (found["nodes"], found["tasks_per_node"], found["gpus_per_node"]) == (2, 8, 8)


def test_a_launcher_that_starts_too_many_processes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", slurm.install(tmp_path / "bin")["PATH"])
    words = ["-m", "hydra/launcher=slurm_8gpu"]
    with pytest.raises(
        UserError, match=r"hydra/launcher=slurm_8gpu: starts 8 processes on a machine; add trainer\.devices=8"
    ):
        check("train", TrainConfig, words)
    check("train", TrainConfig, [*words, "trainer.devices=8"])


def test_slurm_runs_commands_without_a_trainer_too():
    found = launcher("devices=4", root="evaluate")
    assert (found["nodes"], found["tasks_per_node"], found["gpus_per_node"]) == (1, 4, 4)


def test_a_site_is_described_by_a_file_of_its_own(tmp_path: Path):
    """As docs/clusters.md says: `--config-dir` with a launcher that extends ours."""
    (tmp_path / "hydra" / "launcher").mkdir(parents=True)
    site = "defaults: [slurm, _self_]\npartition: a100\naccount: safety\n"
    (tmp_path / "hydra" / "launcher" / "site.yaml").write_text(site)
    words = ["--config-dir", str(tmp_path), "hydra/launcher=site", "--cfg", "hydra", "--package", "hydra.launcher"]
    shown = subprocess.run(
        [sys.executable, "-m", "mmsafe.train", *words], capture_output=True, text=True, check=True, timeout=60
    )
    found = yaml.safe_load(shown.stdout)
    assert (found["partition"], found["account"], found["cpus_per_task"]) == ("a100", "safety", 8)


@pytest.mark.slow
def test_a_sweep_by_submitit_leaves_a_run_folder_for_each_job(one: Path, tmp_path: Path):
    words = ("-m", "hydra/launcher=submitit_local", "hydra.sweep.dir=sweep", "objective=dpo,sft", "data.batch_size=8")
    environment = os.environ | {"MMSAFE_CACHE": str(one / "cache")}
    done = subprocess.run(
        command(*words), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    same_as_one_process(tmp_path / "sweep" / "0", one)
    other = tmp_path / "sweep" / "1"
    assert json.loads((other / "run.json").read_text())["config"]["objective"]["average"] == "token"
    assert (other / "metrics.json").exists()


@pytest.mark.slow
def test_slurm_job_whose_time_is_up_is_saved_queued_again_and_continued(
    one: Path, environment: dict[str, str], tmp_path: Path
):
    """Two tasks, told to stop at different moments, as on two machines."""
    launch = ("-m", "hydra/launcher=slurm", "hydra.sweep.dir=sweep", "trainer.devices=2", "objective=dpo")
    words = command(*launch, "data.batch_size=2", "checkpoint.every_n_steps=1000")
    sweep = subprocess.Popen(words, cwd=tmp_path, env=environment)
    run, bin_ = tmp_path / "sweep" / "0", tmp_path / "bin"
    wait_for(lambda: (run / "metrics.csv").exists() and len((run / "metrics.csv").read_text().splitlines()) > 4, sweep)
    (started,) = bin_.glob("tasks-*")
    for pid in reversed(started.read_text().split()):
        os.kill(int(pid), signal.SIGUSR2)
        time.sleep(0.05)
    wait_for(lambda: len(list(bin_.glob("requeued-*"))) == 1, sweep)
    before = len(rows(run / "metrics.csv"))
    assert list((run / "checkpoints").iterdir()), "saved before it was queued again"
    assert sweep.wait(200) == 0
    assert len(list(bin_.glob("tasks-*"))) == 2
    assert before < STEPS
    same_as_one_process(run, one)
    log = (run / "train.log").read_text()
    assert log.count("continuing from") == 1, "the second task has no part in the log file"
    assert yaml.safe_load((run / ".hydra" / "config.yaml").read_text())["trainer"]["devices"] == 2
    (script,) = (tmp_path / "sweep" / ".submitit").glob("*/*_submission.sh")
    assert {"nodes=1", "ntasks-per-node=2", "gpus-per-node=2", "signal=USR2@300", "time=1440"} <= set(
        re.findall(r"^#SBATCH --(.*)$", script.read_text(), flags=re.M)
    )


def wait_for(condition: Any, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)


def torchrun(port: int, *words: str) -> list[str]:
    """One of two machines with a device each."""
    agent = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}")
    trainer = ("trainer.devices=1", "trainer.num_nodes=2", "data.batch_size=2")
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *agent,
        "-m",
        "mmsafe.train",
        *RUN,
        *trainer,
        "objective=dpo",
        *words,
    ]


@pytest.mark.slow
def test_torchrun_on_two_machines_is_the_same_run(one: Path, environment: dict[str, str], tmp_path: Path):
    words = torchrun(free_port(), f"hydra.run.dir={tmp_path / 'run'}")
    agents = [subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    for agent in agents:
        _, errors = agent.communicate(timeout=200)
        assert agent.returncode == 0, errors.decode()[-3000:]
    same_as_one_process(tmp_path / "run", one)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


ONE_OF_TWO = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
TASK_OF_TWO = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize("variables", [ONE_OF_TWO, TASK_OF_TWO], ids=["torchrun", "slurm"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trainer.devices=2",), "hydra.run.dir: set it, so that all processes share a folder; it is named by the"),
        (("-m", "objective=dpo,sft"), "-m: a sweep is started by one process, without torchrun or srun"),
        (("hydra.run.dir=run", "trainer.devices=4"), "trainer.num_nodes=1: torchrun or SLURM started 2 processes"),
    ],
)
def test_processes_that_would_not_work_together_are_refused(
    variables: dict[str, str], words: tuple[str, ...], message: str, tmp_path: Path
):
    done = subprocess.run(
        [sys.executable, "-m", "mmsafe.train", *words],
        cwd=tmp_path,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra/launcher=slurm"], "hydra/launcher=slurm: starts the jobs of a sweep; add -m, also for a single job"),
        (["-m", "hydra/launcher=slurm"], "hydra/launcher=slurm: there is no srun here; use a login node"),
        (["-m", "hydra/launcher=slum"], "hydra/launcher=slum: no such hydra/launcher; did you mean 'slurm'?"),
        (
            ["-m", "hydra/launcher=slurm", "hydra.launcher.partion=x"],
            "hydra.launcher.partion: hydra.launcher has no option 'partion'; did you mean 'partition'?",
        ),
    ],
)
def test_launchers_that_cannot_work_are_refused(words: list[str], message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=re.escape(message)):
        check("train", TrainConfig, words)


@pytest.mark.parametrize("name", ["slurm", "submitit_local"])
def test_without_the_plugin_one_line_says_how_to_install_it(name: str, monkeypatch: pytest.MonkeyPatch):
    check("train", TrainConfig, ["-m", "hydra/launcher=submitit_local"])  # has the plugins registered, once for all
    registered = ConfigStore.instance().repo["hydra"]["launcher"]
    monkeypatch.delitem(registered, "submitit_slurm.yaml")
    monkeypatch.delitem(registered, "submitit_local.yaml")
    with pytest.raises(UserError, match=re.escape(f"hydra/launcher={name}: needs submitit; run pip install")):
        check("train", TrainConfig, ["-m", f"hydra/launcher={name}"])
