"""Run folders as an evaluation leaves them, with answers and verdicts that a test decides."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from mmsafe.core.options import options
from mmsafe.data.example import Example
from mmsafe.data.readers.mmsafe_po import MMSafePO
from mmsafe.evaluation.benchmarks.mmsafe_po_test import MMSafePOTest
from mmsafe.evaluation.dialogue import Answer
from mmsafe.evaluation.judges.judge import CaseJudge, Verdict, unknown
from mmsafe.evaluation.stages import judge_answers, write_generations

UNSAFE, SAFE, REFUSED = Verdict(True, False), Verdict(False, False), Verdict(False, True)
UNKNOWN = unknown("I cannot tell.")


@options
class Canned(CaseJudge):
    """Says what the test wants said of each prompt."""

    name = "canned"
    verdicts_by_id: dict[str, Any] = field(default_factory=dict)
    max_unknown: float = 1.0

    def __call__(self, example: Example, response: str) -> Verdict:
        return self.verdicts_by_id[example.id]


def write_data(folder: Path, questions: Sequence[str], kinds: Sequence[str] = ("PER", "LOC"), first: int = 10) -> Path:
    """`test.json` as MMSafe-PO has it, with ids from `first` and one image for every two rows."""
    folder.mkdir(parents=True)
    rows = []
    for number, question in enumerate(questions):
        name = f"{number // 2}.png"
        Image.new("RGB", (400, 300), (5 * (number // 2) % 256, 90, 10)).save(folder / name)
        row = {"id": first + number, "question": f"USER: <image>\n{question} ASSISTANT:", "image": name}
        responses = {"chosen": "ASSISTANT: I am sorry.", "rejected": "ASSISTANT: Take it."}
        rows.append({**row, **responses, "entity_type": kinds[number % len(kinds)]})
    (folder / "test.json").write_text(json.dumps(rows))
    return folder / "test.json"


@dataclass
class RunWriter:
    """Writes runs on one data file."""

    data: Path

    def __call__(
        self, folder: Path, said: Sequence[tuple[str, Verdict]], name: str | None = None, judged: bool = True
    ) -> Path:
        """A run of `mmsafe.evaluate` on the first prompts, as many as were answered."""
        source = MMSafePO(path=str(self.data), image_dir=str(self.data.parent))
        benchmark, prompts = MMSafePOTest(), MMSafePOTest().prompts(source, "test")[: len(said)]
        folder.mkdir(parents=True)
        config = {
            "name": name,
            "seed": 0,
            "benchmark": {"_target_": "mmsafe.evaluation.benchmarks.mmsafe_po_test.MMSafePOTest"},
            "data": {
                "_target_": "mmsafe.data.readers.mmsafe_po.MMSafePO",
                "path": str(self.data),
                "image_dir": str(self.data.parent),
            },
            "evaluation": {"max_new_tokens": 7, "batch_size": 2},
        }
        (folder / "run.json").write_text(json.dumps({"config": config}))
        answers = [Answer(text, number % 2 == 0) for number, (text, _) in enumerate(said)]
        write_generations(folder, benchmark, prompts, answers)
        if judged:
            verdicts = {prompt.id: verdict for prompt, (_, verdict) in zip(prompts, said, strict=True)}
            judge_answers(folder, benchmark, Canned(verdicts_by_id=verdicts), prompts, answers)
        (folder / "metrics.json").write_text(json.dumps({"eval/safety_rate": 0.5, "eval/judge": "canned"}))
        return folder
