"""The benchmark against TRL compares like with like: same inputs, same losses, same gradient norms."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import data, models
from benchmarks.families import BUILD
from benchmarks.sides import Plan
from mmsafe.core.errors import UserError
from mmsafe.data.readers.mmsafe_po import MMSafePO
from mmsafe.models.family import families

pytest.importorskip("trl", reason="the benchmark's other side, TRL, is not installed")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = data.synthetic(8, prompt=(5, 10), response=(5, 25))
    return data.write(found, tmp_path_factory.mktemp("data"), random.Random(0))


@pytest.fixture(scope="module")
def folder(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a tiny model with this chat template."""

    def written(template: str = models.CHAT_TEMPLATE) -> Path:
        out = tmp_path_factory.mktemp("model")
        models.write("tiny", MMSafePO(path=rows).test().examples, out, template)
        return out

    return written


@pytest.fixture(scope="module")
def model(folder: Callable[..., Path]) -> Path:
    return folder()


def compared(**plan: Any) -> dict[str, Any]:
    from benchmarks.step import compare

    return compare(Plan(**{"steps": 4, "lr": 1e-5, **plan}))


@pytest.mark.parametrize(
    ("kind", "objective", "scoring"),
    [
        ("folder of a LLaVA", "dpo", "padded"),
        ("folder of a LLaVA", "bpo", "shared_prefix"),
        *(
            pytest.param(f"{family.name}-tiny", "bpo", "shared_prefix", marks=[pytest.mark.slow] * (number > 2))
            for number, family in enumerate(family for family in families() if family.name != "llava")
        ),
    ],
)
def test_both_sides_train_the_same(model: Path, rows: Path, kind: str, objective: str, scoring: str) -> None:
    named = Path(kind) if kind in BUILD else model
    found = compared(model=named, data=rows, objective=objective, scoring=scoring)
    pairs = {"dpo": 1, "bpo": 2}[objective]
    assert found["ours"]["loss"] == pytest.approx(found["trl"]["loss"], abs=pairs * 1e-5)
    assert found["ours"]["grad_norm"] == pytest.approx(found["trl"]["grad_norm"], rel=1e-3)
    assert found["parity"]["agree"]
    assert found["identical_sequences"] == 8 * 2 * pairs
    assert len(set(found["ours"]["loss"])) == 4  # the weights did change


def test_checkpointing_and_a_live_reference_change_nothing(model: Path, rows: Path) -> None:
    plain, other = (
        compared(model=model, data=rows, **options)
        for options in ({}, {"checkpointing": True, "reference": "online", "trl_head": "compact"})
    )
    assert other["parity"]["agree"]
    assert other["ours"]["loss"] == pytest.approx(plain["ours"]["loss"], abs=1e-6)


@pytest.mark.parametrize(
    ("part", "without", "message"),
    [
        ("eos_token if", "'' if", "its 'chosen' response: TRL's has no EOS"),
        ("{{ bos_token }}", "", "its prompt: TRL's has no BOS"),
        ("ASSISTANT:{%", "ASSISTANT: {%", "from token"),
    ],
)
def test_other_tokens_are_told(folder: Callable[..., Path], rows: Path, part: str, without: str, message: str) -> None:
    assert part in models.CHAT_TEMPLATE
    with pytest.raises(UserError, match=message):
        compared(model=folder(models.CHAT_TEMPLATE.replace(part, without)), data=rows)


def test_too_few_rows_are_named(model: Path, rows: Path) -> None:
    with pytest.raises(UserError, match=r"8 rows, where 9 steps of 2 need 18"):
        Plan(model=model, data=rows, steps=9).examples()


def test_rows_without_a_blind_response_are_named(model: Path, rows: Path, tmp_path: Path) -> None:
    bare = tmp_path / "data.json"
    bare.write_text(json.dumps([{**row, "blind": None} for row in json.loads(rows.read_text())]))
    (tmp_path / "images").symlink_to(rows.parent / "images")
    with pytest.raises(UserError, match="row 0 has no 'blind' response"):
        Plan(model=model, data=bare, objective="bpo", steps=4).examples()


def test_a_real_file_is_completed() -> None:
    rows = [{"chosen": str(i), "image": "x"} for i in range(3)]
    found = data.completed(rows, random.Random(0))
    assert sorted(row["blind"] for row in found) == ["0", "1", "2"]
    assert data.completed([{"chosen": "a", "blind": "b"}], random.Random(0)) == [{"chosen": "a", "blind": "b"}]


@pytest.mark.slow
def test_the_command_prints_json_with_memory(model: Path, rows: Path) -> None:
    words = ["--model", str(model), "--data", str(rows), "--steps", "4", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert set(found["memory_mib"]) == {"ours", "trl"}
    assert {"cpu", "cpu_with_reference_pass", "wall", "tokens", "peak", "above_imports"} <= set(found["summary"])
