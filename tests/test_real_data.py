"""The real MMSafe-PO rows beside the checkout, with placeholder images: blind, optimise, evaluate."""

import csv
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmsafe.data.readers.mmsafe_po import MMSafePO
from mmsafe.objectives.dpo import DPO
from mmsafe.scoring.collate import Items
from mmsafe.scoring.sampler import EpochBatches
from mmsafe.scoring.token_batches import TokenBatches, item_tokens
from mmsafe.scoring.ways import SharedPrefix

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "mmsafe_po_sample.json"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """One distinct plain image per real image name, as the real names are: percent-encoded, some without extension."""
    folder = tmp_path / "images"
    folder.mkdir()
    names = sorted({row["image"] for row in json.loads(SAMPLE.read_text())})
    for index, name in enumerate(names):
        with (folder / name).open("wb") as file:
            Image.new("RGB", (40 + index % 30, 30), (index % 256, 90, 200)).save(file, "PNG")
    return folder


@pytest.mark.skipif(not SAMPLE.exists(), reason="needs the MMSafe-PO sample in ../shared/data")
def test_batches_of_tokens_hold_hardly_any_padding(images: Path, llava: Any) -> None:
    """Of lines of a prompt each, 8 to a batch, a third is padding."""
    source = MMSafePO(path=SAMPLE, image_dir=images, check_images="header")
    items = Items([*source.train().examples, *source.holdout().examples], 1)
    tokens = [item_tokens(SharedPrefix().collator(llava.encoder(), DPO().groups), item) for item in items]
    shares = []
    for limit, batches in ((None, EpochBatches(len(items), 8, 0)), (4096, TokenBatches(tokens, 4096, 0))):
        collator = SharedPrefix().collator(llava.encoder(), DPO().groups, max_tokens=limit)
        made = [collator([items[draw] for draw in batch]) for batch in batches]
        assert sum(map(len, made)) == 90
        shares.append(sum(batch.padding for batch in made) / sum(batch.input_ids.numel() for batch in made))
    assert shares[1] < 0.005 < 0.2 < shares[0]


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.exists(), reason="needs the MMSafe-PO sample in ../shared/data")
def test_bpo_on_real_rows(
    images: Path, tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run = tmp_path / "run"
    done = command(
        "train",
        "data=mmsafe_po",
        f"data.path={SAMPLE}",
        f"data.image_dir={images}",
        "data.batch_size=4",
        "model=random",
        "objective=bpo",
        "optimizer.lr=1e-3",
        "trainer.max_steps=20",
        "trainer.progress_bar=false",
        "generation.max_new_tokens=16",
        "evaluation.max_new_tokens=16",
        f"hydra.run.dir={run}",
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads((run / "metrics.json").read_text())
    with (run / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert losses[0] == pytest.approx(2 * math.log(2), abs=1e-4)
    assert len(losses) == 20
    assert sum(losses[-5:]) / 5 < losses[0]
    about = json.loads((run / "run.json").read_text())
    assert about["examples"] + metrics["eval/safety_rate_n"] == 90
    assert metrics["eval/judge"] == "keywords"
    assert {"eval/pairwise_accuracy", "eval/pairwise_accuracy_prompted", "eval/refusal_rate"} <= metrics.keys()
