"""Runs that torchrun or SLURM start: the same as one process, stopped and continued, refused where it cannot work."""

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

import pytest
import slurm
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from launching import launch, refuse, wait_for

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


@pytest.mark.parametrize(
    ("words", "root", "nodes", "devices"),
    [
        (["trainer.devices=1"], "train", 1, 1),
        (["trainer.devices=8", "trainer.num_nodes=2"], "train", 2, 8),
        (["hydra/launcher=slurm_8gpu", "trainer.devices=8", "trainer.num_nodes=2"], "train", 2, 8),
        (["devices=4"], "evaluate", 1, 4),
    ],
)
def test_slurm_gives_every_device_a_task(words: list[str], root: str, nodes: int, devices: int):
    """What SLURM would be asked for; the interpolations resolved."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose(root, ["hydra/launcher=slurm", "hydra.sweep.dir=sweep", *words], return_hydra_config=True)
    assert {name: cfg.hydra.launcher[name] for name in cfg.hydra.launcher} | {
        "nodes": nodes,
        "tasks_per_node": devices,
        "gpus_per_node": devices,
        "signal_delay_s": 300,
        "timeout_min": 1440,
        "max_num_timeout": 20,
        "submitit_folder": "sweep/.submitit/%j",
        "_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
    } == dict(cfg.hydra.launcher)


def test_a_launcher_that_starts_too_many_processes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", slurm.install(tmp_path / "bin")["PATH"])
    words = ["-m", "hydra/launcher=slurm_8gpu"]
    told = "hydra/launcher=slurm_8gpu: starts 8 processes on a machine; add trainer.devices=8"
    with pytest.raises(UserError, match=re.escape(told)):
        check("train", TrainConfig, words)
    check("train", TrainConfig, [*words, "trainer.devices=8"])


def test_a_site_is_described_by_a_file_of_its_own(tmp_path: Path):
    """As docs/clusters.md says: `--config-dir` with a launcher that extends ours."""
    (tmp_path / "hydra" / "launcher").mkdir(parents=True)
    site = "defaults: [slurm, _self_]\npartition: a100\naccount: safety\n"
    (tmp_path / "hydra" / "launcher" / "site.yaml").write_text(site)
    words = ("--config-dir", str(tmp_path), "hydra/launcher=site", "--cfg", "hydra", "--package", "hydra.launcher")
    found = yaml.safe_load(launch("train", *words, cwd=tmp_path, cache=tmp_path).out)
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
    how = ("-m", "hydra/launcher=slurm", "hydra.sweep.dir=sweep", "trainer.devices=2", "objective=dpo")
    words = command(*how, "data.batch_size=2", "checkpoint.every_n_steps=1000")
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


@pytest.mark.slow
def test_torchrun_on_two_machines_is_the_same_run(one: Path, environment: dict[str, str], tmp_path: Path):
    """Of one device each."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{listening.getsockname()[1]}"
    agent = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}")
    trainer = ("trainer.devices=1", "trainer.num_nodes=2", "data.batch_size=2", "objective=dpo")
    words = ["torch.distributed.run", *agent, "-m", "mmsafe.train", *RUN, *trainer, f"hydra.run.dir={tmp_path / 'run'}"]
    command = [sys.executable, "-m", *words]
    agents = [subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    for agent_process in agents:
        _, errors = agent_process.communicate(timeout=200)
        assert agent_process.returncode == 0, errors.decode()[-3000:]
    same_as_one_process(tmp_path / "run", one)


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
    variables: dict[str, str], words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert message in refuse("train", *words, cwd=tmp_path, cache=tmp_path)


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
