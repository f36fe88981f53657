"""Weights & Biases: what its own reader finds of two jobs in one process, when it stays offline, and no secret."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmsafe.core.errors import UserError
from mmsafe.core.secrets import public
from mmsafe.reporting import wandb_log
from mmsafe.reporting.logged_run import LoggedRun
from mmsafe.reporting.loggers import TensorBoard, Wandb

KEY = "0123456789abcdef0123456789abcdef01234567"
PLACES = ("config", "nested", "list", "value", "url", "environment", "argument")
PLANTED = [f"planted-{place}-a1b2c3d4" for place in PLACES]
IN_CONFIG, NESTED, IN_LIST, IN_VALUE, IN_URL, IN_ENVIRONMENT, IN_ARGUMENT = PLANTED

# Two jobs in one process, each in its own folder; the first ends as a job that died, without `finish`.
JOBS = f"""
import logging, os, sys
from pathlib import Path
from mmsafe.reporting.logged_run import LoggedRun
from mmsafe.reporting.loggers import Wandb
from mmsafe.reporting.wandb_log import finish

logging.basicConfig(format="%(levelname)s %(message)s")
config = {{
    "model": {{"name": "tiny", "max_new_tokens": 256}},
    "judge": {{"api_key": "{IN_CONFIG}", "headers": [{{"Authorization": "{IN_LIST}"}}], "auth": {{"x": "{NESTED}"}}}},
    "extra": {{"header": "Bearer {IN_VALUE}", "url": "https://name:{IN_URL}@example.org/x"}},
    "path": Path("runs/1"),
}}
root = Path(sys.argv[1])
for number, name in enumerate(["first", "second"], 1):
    run = LoggedRun(root / name, name, config | {{"number": number}}, "train", "my-sweep", ("objective=bpo",))
    logger = Wandb(group=None if number == 1 else "both", tags=["a", "b"]).open(run)
    for step in (1, 2):
        logger.log_metrics({{"train/loss": number / step}}, step=step)
finish()
finish()
print("WANDB_MODE", os.environ.get("WANDB_MODE"))
"""


def environment(folder: Path, **more: str) -> dict[str, str]:
    """No key, no network, and nothing written outside of `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB") and name != "NETRC"}
    places = {f"WANDB_{name}DIR": str(folder / name) for name in ("", "CACHE_", "CONFIG_", "DATA_")}
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    return kept | places | nowhere | {"HOME": str(folder), "WANDB_SILENT": "true"} | more


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the two jobs' run folders, `first` and `second`, and `output`, what the process said."""
    home, root = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("runs here")
    run = subprocess.run(
        [sys.executable, "-c", JOBS, str(root), f"judge.api_key={IN_ARGUMENT}"],
        env=environment(home, HF_TOKEN=IN_VALUE, SOME_PASSWORD=IN_ENVIRONMENT),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    (root / "output").write_text(run.stdout + run.stderr)
    return root


def read_back(run_folder: Path, *options: str) -> str:
    """The only run in a folder, as wandb itself reads it."""
    (run,) = (run_folder / "wandb").glob("offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(run)]
    own = environment(run_folder.parent / "reader")
    return subprocess.run(command, env=own, capture_output=True, text=True, check=True).stdout


def test_two_jobs_in_one_process_give_two_runs_whose_configs_have_no_secrets(jobs: Path) -> None:
    first, second = (json.loads(read_back(jobs / name, "--summary")) for name in ("first", "second"))
    assert first["run_id"] != second["run_id"]
    assert (first["name"], second["name"]) == ("first", "second")
    assert (first["summary"]["train/loss"], second["summary"]["train/loss"]) == (0.5, 1.0)
    assert second["summary"]["trainer/global_step"] == 2
    assert (first["exit_code"], second["exit_code"]) == (1, 0)
    assert (second["project"], second["tags"]) == ("mmsafe", ["a", "b", "objective=bpo"])
    config = {
        "model": {"name": "tiny", "max_new_tokens": 256},
        "judge": {"headers": [{}]},
        "extra": {"header": "Bearer (left out)", "url": "https://(left out)@example.org/x"},
        "path": "runs/1",
        "sweep": "my-sweep",
    }
    assert [first["config"], second["config"]] == [config | {"number": 1}, config | {"number": 2}]


def test_no_file_and_no_record_holds_a_secret_or_metadata(jobs: Path) -> None:
    """A .wandb file is cut into blocks, which could hide a text from a search through its bytes."""
    files = {path: path.read_bytes() for path in jobs.rglob("*") if path.is_file()}
    assert sum(path.suffix == ".wandb" for path in files) == 2
    assert not [f"{path.name}: {it}" for path, raw in files.items() for it in PLANTED if it.encode() in raw]
    records = read_back(jobs / "second")
    assert '"type":"history"' in records
    assert not [secret for secret in (*PLANTED, sys.executable) if secret in records]


def test_the_log_says_that_and_how_to_sync(jobs: Path) -> None:
    lines = (jobs / "output").read_text().splitlines()
    told = [line for line in lines if line.startswith("WARNING no Weights & Biases key")]
    assert len(told) == 2
    assert f"`wandb sync '{jobs}/first/wandb'/offline-run-*`" in told[0]
    assert "WANDB_MODE None" in lines  # Lightning would have set it, and so decided for the next job


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This process without a key; returns its home folder."""
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith("WANDB") or name == "NETRC"]:
        monkeypatch.delenv(name)
    for name in ("HOME", "WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(home)
    import wandb

    wandb.teardown()  # it reads the environment once
    yield home
    wandb.teardown()


@pytest.mark.parametrize(
    "variable",
    [
        ("", ""),
        ("WANDB_API_KEY", KEY),
        ("WANDB_MODE", "online"),
        ("WANDB_MODE", "disabled"),
        ("WANDB_IDENTITY_TOKEN_FILE", "x"),
        ("netrc", KEY),
    ],
)
def test_a_run_is_offline_where_nothing_else_is_said(
    bare: Path, monkeypatch: pytest.MonkeyPatch, variable: tuple[str, str]
) -> None:
    if variable[0] == "netrc":
        (bare / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
        (bare / ".netrc").chmod(0o600)
    elif variable[0]:
        monkeypatch.setenv(*variable)
    assert wandb_log.is_offline() == (not variable[0])


def test_an_impossible_key_is_refused_at_once(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short-secret")
    with pytest.raises(UserError, match=r"Weights & Biases: .*`wandb login`") as caught:
        wandb_log.is_offline()
    assert "short-secret" not in str(caught.value)


def test_with_a_key_nothing_is_said(
    bare: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with caplog.at_level(logging.INFO):
        logger = Wandb(project="p").open(LoggedRun(tmp_path / "run", "name", {}))  # no run begins yet
    assert not [record for record in caplog.records if record.name.startswith("mmsafe")]
    assert (logger.name, logger.save_dir) == ("p", str(tmp_path / "run"))


def test_importing_the_module_is_cheap() -> None:
    modules = "mmsafe.reporting.wandb_log, mmsafe.reporting.loggers"
    code = f"import sys, {modules}; print({{'wandb', 'torch', 'pytorch_lightning'}} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize(("options", "extra"), [(Wandb(), "wandb"), (TensorBoard(), "board")])
def test_a_missing_package_is_named(options: Any, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert options.refusal() == ""
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, options.package, raising=False)
    told = f"logger={options.package}: is not installed; run pip install 'mmsafe[{extra}]'"
    assert options.refusal().startswith(told)


SECRET_KEYS = ["key", "api_key", "apiKey", "openaiAPIKey", "X-API-Key", "HF_TOKEN", "tokens", "token2", "secret"]
SECRET_KEYS += ["client_secrets", "password", "db.password", "Authorization", "oauth", "accesskey", "credentials"]
OTHER_KEYS = ["tokenizer", "keywords", "author", "max_length", "path", "monthly", "_target_"]


def test_what_a_key_or_a_value_shows_to_be_a_secret_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in SECRET_KEYS:
        for value in ("x", ["x"], {"a": "x"}, None):
            config = {"a": {key: value}, key: value}
            assert public(config) == {"a": {}}, key
            assert config == {"a": {key: value}, key: value}
    for key in OTHER_KEYS:
        assert public({"a": [{key: "x"}], key: 1}) == {"a": [{key: "x"}], key: 1}
    assert public({"max_new_tokens": 256}) == {"max_new_tokens": 256}
    assert public({"max_new_tokens": "256", "password": 256}) == {"max_new_tokens": "256"}
    monkeypatch.setenv("MY_TOKEN", "long-enough")
    monkeypatch.setenv("MY_KEY", "no")  # too short: half of all texts would hold it
    assert public({"a": ["a long-enough b", "no"]}) == {"a": ["a (left out) b", "no"]}
    urls = {"a": "https://user@example.org/", "b": "https://example.org/@x", "c": "https://example.org"}
    assert public(urls) == urls | {"a": "https://(left out)@example.org/"}
