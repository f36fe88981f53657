"""What comes from others runs no code, and what was typed as a secret is written nowhere."""

import json
import logging
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_runs import REFUSED, SAFE, RunWriter, write_data
from launching import QUICK, launch, refuse, succeed

from mmsafe.core.config import allow_plugins, recorded
from mmsafe.core.errors import UserError
from mmsafe.core.secrets import LEFT_OUT, MaskedRecord, masked
from mmsafe.evaluation.comparison import read_judged_run
from mmsafe.experiment.exporting import consolidated
from mmsafe.reporting.run_samples import SampledRunConfig, read_samples

EVIL = "from pathlib import Path\nPath({mark!r}).touch()\n\n\nclass Thing:\n    pass\n"
PLUGIN = (
    "from mmsafe.evaluation.benchmarks.mmsafe_po_test import MMSafePOTest\n"
    "from mmsafe.core.options import options\n\n\n"
    "@options\nclass Mine(MMSafePOTest):\n    pass\n"
)
TARGETS = [
    "evil_package.Thing",
    "os.system",
    "subprocess.Popen",
    "mmsafe.core.config.importlib.import_module",
    "mmsafe.sweeps.job.Popen",
    "mmsafe.core.config.Path",
    "mmsafe.core.errors.UserError",
    "mmsafe_evil.Thing",
    "mmsafe.evil_package.Thing",
    "mmsafe..evil_package.Thing",
    ".evil_package.Thing",
    "mmsafe/../evil_package.Thing",
    "evil_package",
    "",
    ["evil_package.Thing"],
    {"_target_": "evil_package.Thing"},
    None,
]


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is made when a planted package is imported, by whatever name."""
    path = tmp_path / "executed"
    for name in ("evil_package", "mmsafe_evil"):
        (tmp_path / f"{name}.py").write_text(EVIL.format(mark=str(path)))
    (tmp_path / "my_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    allow_plugins([])
    return path


@pytest.fixture
def planted(tmp_path: Path) -> Any:
    """A run folder as an evaluation leaves it, in whose config something is replaced."""

    def write(**nodes: Any) -> Path:
        data = tmp_path / "data" / "test.json"
        if not data.exists():
            write_data(tmp_path / "data", ["How?", "Why?"])
        folder = RunWriter(data)(tmp_path / f"run{len(list(tmp_path.iterdir()))}", [("Sorry.", REFUSED), ("So.", SAFE)])
        about = json.loads((folder / "run.json").read_text())
        about["config"] |= nodes
        (folder / "run.json").write_text(json.dumps(about))
        return folder

    return write


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_stranger_s_run_folder_executes_nothing(
    target: Any, planted: Any, mark: Path, monkeypatch: pytest.MonkeyPatch
):
    node = {"_target_": target}
    folder = planted(plugins=["evil_package", "os"], benchmark=node, model=node)
    monkeypatch.setattr(
        "mmsafe.experiment.exporting.current_checkpoint", lambda run: run / "checkpoints" / "step=1.ckpt"
    )
    for read in (lambda: read_samples([folder]), lambda: read_judged_run(folder), lambda: consolidated(folder)):
        with pytest.raises(UserError) as refused:
            read()
        assert len(str(refused.value).splitlines()) == 1
    assert not mark.exists()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["mmsafe", "config", "importlib", "os", "system", "errors", ""]), max_size=5))
def test_no_dotted_name_gets_past_as_anything_but_options(parts: list[str]):
    allow_plugins([])
    with pytest.raises(UserError):
        recorded({"benchmark": {"_target_": ".".join(parts)}}, SampledRunConfig)


def test_a_package_that_the_user_names_is_imported_and_only_then(planted: Any, mark: Path, tmp_path: Path):
    folder = planted(benchmark={"_target_": "my_plugin.Mine"})
    assert "if you trust the package my_plugin, add plugins=[my_plugin]" in refuse(
        "samples", f"runs={folder}", cwd=tmp_path, cache=tmp_path
    )
    assert "my_plugin" not in sys.modules
    for command, words in (("samples", [f"runs={folder}"]), ("compare", [f"a={folder}", f"b={folder}"])):
        succeed(command, *words, "plugins=[my_plugin]", cwd=tmp_path, cache=tmp_path)
    assert "add plugins=[my_plugin]" in launch("samples", f"runs={folder}", cwd=tmp_path, cache=tmp_path).err


URL = "http://someone:pass-word@localhost:9/v1"
TOKEN = "tok-3141592653"


def test_secrets_that_were_typed_are_in_no_file_and_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_API_TOKEN", TOKEN)
    words = [word for word in QUICK if not word.startswith(("trainer", "generation", "data.batch"))]
    words += [f"name={TOKEN}+{URL}", "hydra.run.dir=run", "hydra.verbose=true"]
    ended = succeed("evaluate", *words, cwd=tmp_path, cache=tmp_path)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    written = {path.name: path.read_text() for path in files} | {"shown": ended.out + ended.err}
    assert {"run.json", "config.yaml", "hydra.yaml", "overrides.yaml", "evaluate.log"} <= set(written)
    assert [name for name, text in written.items() if "pass-word" in text or TOKEN in text] == []
    about = json.loads(written["run.json"])
    assert about["config"]["name"] == f"{LEFT_OUT}+http://{LEFT_OUT}@localhost:9/v1"
    assert f"name={about['config']['name']}" in about["command"]
    succeed("evaluate", *words, cwd=tmp_path, cache=tmp_path)
    refused = launch("evaluate", *words, f"seed={URL}", cwd=tmp_path, cache=tmp_path)
    assert (refused.status, "pass-word" in refused.err) == (2, False)


def test_records_of_data_sets_hold_no_secret_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_API_TOKEN", TOKEN)
    data = write_data(tmp_path / "data", ["How?", "Why?"]).rename(tmp_path / f"{TOKEN}.json")
    words = ["data=mmsafe_po", f"data.path={data}", f"data.image_dir={tmp_path / 'data'}"]
    for command, more in (("inspect", []), ("prepare", ["out=set"]), ("prepare", ["out=set"])):
        succeed(command, *words, *more, f"hydra.run.dir={command}", cwd=tmp_path)
    written = [
        path for name in ("inspect", "prepare", "set") for path in (tmp_path / name).rglob("*") if path.is_file()
    ]
    assert {"statistics.json", "prepared.json"} <= {path.name for path in written}
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("secret", ["it's-a-secret", 'a"secret"one', "a/secret?b=c", "ends-with-a-line\n"])
def test_secrets_are_found_however_they_are_quoted(secret: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_API_TOKEN", secret)
    plain = secret.strip()
    for typed in (plain, plain.replace("'", "\\'"), plain.replace('"', '\\"'), quote(plain, safe="")):
        assert masked(f"x={typed}") == f"x={LEFT_OUT}"


def test_what_is_masked_stays_otherwise_as_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_API_TOKEN", TOKEN)
    plain = {"a": [1, None, True, "x@y", "http://host/@x"], "b": {"c": "${oc.env:HOME}"}}
    assert masked(plain) == plain
    assert masked([f"a={TOKEN}b", URL]) == [f"a={LEFT_OUT}b", f"http://{LEFT_OUT}@localhost:9/v1"]
    error = ValueError(TOKEN)
    record = MaskedRecord("x", logging.INFO, "", 0, "asks %s", (URL,), (ValueError, error, None))
    assert logging.Formatter().format(record) == f"asks http://{LEFT_OUT}@localhost:9/v1\nValueError: {LEFT_OUT}"
