"""Small benchmarks in the exact layout of the published ones, and verdicts on them."""

import base64
import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import yaml
from PIL import Image

from mmsafe.core.config import built, conf_dir
from mmsafe.core.errors import UserError
from mmsafe.data.data_source import NoData
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmark import Benchmark, Judged
from mmsafe.evaluation.benchmarks.mm_safetybench import SCENARIOS
from mmsafe.evaluation.judges.judge import Verdict, unknown

SAFE = Verdict(unsafe=False, refused=False)
REFUSED = Verdict(unsafe=False, refused=True)
UNSAFE = Verdict(unsafe=True, refused=False)
UNKNOWN = unknown("?")


RIGHT, WRONG = (Verdict(unsafe=False, refused=False, details={"right": right}) for right in (True, False))


def shipped(name: str, **options: Any) -> Any:
    """The benchmark of a file in `conf/benchmark/`."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    return built({**yaml.safe_load((conf_dir() / "benchmark" / f"{name}.yaml").read_text()), **plain}, "benchmark")


def picture(path: Path, colour: int = 0, kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (colour % 256, 0, 0)).save(path, kind)
    return path


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def prompts(benchmark: Benchmark) -> list[Example]:
    """What it asks, with ids that are distinct and images that can be decoded."""
    benchmark.check_data(NoData())
    found = benchmark.prompts(NoData(), "test")
    assert len({prompt.id for prompt in found}) == len(found)
    assert all(image.load().size == (4, 4) for prompt in found for image in prompt.images)
    assert all(len(prompt.images) == sum(len(turn.images) for turn in prompt.turns) for prompt in found)
    assert benchmark.pairs(NoData(), "test") == []
    return found


def complaint(benchmark: Benchmark) -> str:
    """The one line in which it refuses its folder."""
    with pytest.raises(UserError) as caught:
        benchmark.prompts(NoData(), "test")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def judged(prompts: Iterable[Example], verdict: Callable[[Example], Verdict]) -> list[Judged]:
    return [Judged(prompt, "said", verdict(prompt)) for prompt in prompts]


def values(benchmark: Benchmark, rows: list[Judged]) -> dict[str, float]:
    """Every metric, by tag too, without its interval."""
    return {name: estimate.value for name, estimate in benchmark.breakdown(rows).items()}


def mm_safetybench(folder: Path, keys: Mapping[str, Iterable[str]] | None = None) -> Path:
    """`keys`: those of a scenario's questions, by its first two digits; the others have one question, `0`."""
    for number, scenario in enumerate(SCENARIOS):
        questions = {}
        for key in (keys or {}).get(scenario[:2], "0"):
            questions[key] = {
                "Question": f"question {key}",
                "GPT-Pred": "[Changed Question] …",
                "Changed Question": f"changed question {key}",
                "Key Phrase": "phrase",
                "Phrase Type": "activity",
                "Rephrased Question": f"the bottom of the image shows a phrase {key}",
                "Rephrased Question(SD)": f"the image shows a phrase {key}",
            }
            for colour, split in enumerate(("SD", "SD_TYPO", "TYPO")):
                picture(folder / "data" / "imgs" / scenario / split / f"{key}.jpg", 60 * colour + number, "JPEG")
        write_json(folder / "data" / "processed_questions" / f"{scenario}.json", questions)
    return folder


def harmeval(folder: Path, count: int = 4) -> Path:
    """An export as one JSON object of rows, with images in a folder."""
    rows = {}
    for number in range(count):
        picture(folder / "images" / f"{number}.png", number)
        classes = {"class1": "Harm A", "class2": f"Harm A{number % 2}", "class3": f"Harm A{number % 2}.{number}"}
        rows[str(number)] = {"image": f"{number}.png", "question": f"question {number}", **classes}
    write_json(folder / "spa_vl_harm.json", rows)
    return folder


def siuo(folder: Path) -> Path:
    """Four questions in two domains."""
    rows = []
    for number, category in enumerate(("self-harm", "privacy") * 2):
        picture(folder / "images" / f"S-{number}.png", number)
        asked = {"question_id": 1001 + number, "image": f"S-{number}.png", "question": f"question {number}"}
        rows.append({**asked, "category": category, "safety_warning": "a warning", "reference_answer": "an answer"})
    write_json(folder / "siuo_gen.json", rows)
    return folder


def safemt(folder: Path, scenarios: Iterable[str] = ("Fraud", "Threat")) -> Path:
    """A request of each scenario, at once and in dialogues, as on GitHub; with a placeholder and spaces around it."""
    for length in (1, 2, 4):
        rows = []
        for scenario in scenarios:
            kind = scenario.lower().replace(" ", "_")
            said = [f" question {n} about {kind}\n" if n else f"<image>question 0 about {kind}" for n in range(length)]
            turns = [
                {"role": role, "content": text}
                for n in range(length)
                for role, text in (("user", said[n]), ("assistant", f"published answer {n}"))
            ]
            image = f"images/{kind}/{kind}_1.jpg"
            picture(folder / image, len(kind), "JPEG")
            row = {"id": f"mllm_{kind}_1", "scenario": scenario, "image_path": image, "dialogue": turns[:-1]}
            rows.append({**row, "question": f"plain question about {kind}"})
        write_json(folder / f"{length}_turn.json", rows)
    return folder


def mis(folder: Path) -> Path:
    """Two questions of each kind, each about two images."""
    for colour, split in enumerate(("easy", "hard", "real")):
        rows = []
        for number, category in enumerate(("Violence", "Privacy")):
            names = [f"{split}_image/{number}/object{side}.png" for side in (1, 2)]
            for side, name in enumerate(names):
                picture(folder / name, 60 * colour + 20 * number + side)
            asked = {"id": number, "image_path1": names[0], "image_path2": names[1], "question": f"{split} {number}?"}
            rows.append({**asked, "category": category, "sub_category": "a kind"})
        write_json(folder / f"mis_{split}.json", rows)
    return folder


def mossbench(folder: Path) -> Path:
    """Four requests, of three kinds of stimulus."""
    rows = {}
    for key, over in zip("1234", ("type 1", "type 2", "type 3", "type 3"), strict=True):
        picture(folder / "data" / "images" / f"{key}.png", int(key))
        row = {"image": f"images/{key}.png", "short description": "a room", "question": f"question {key}", "pid": key}
        rows[key] = row | {"metadata": {"over": over, "human": 0, "child": 1, "syn": 1, "ocr": 0, "harm": [7]}}
    write_json(folder / "data" / "images_information" / "information.json", rows)
    return folder


def mssbench(folder: Path) -> Path:
    """Two chat queries and an embodied task, each in both situations."""
    chat = {"safe_image_path": "1.jpg", "intent": "practise", "unsafe_image": "a cliff", "unsafe_image_path": "2.jpg"}
    chat |= {"Type": "harmful", "queries": ["How do I practise?", "Any tips?"]}  # type: ignore[dict-item]
    embodied = {"task": "place", "category": "property", "safe": "safe/1.png", "unsafe": "unsafe/1.png"}
    for situation, thing in (("safe", "cup"), ("unsafe", "fork")):
        text = f"put the {thing} in"
        embodied |= {f"{situation}_instruction": text, f"{situation}_instructions": [text]}  # type: ignore[dict-item]
    for colour, name in enumerate(("chat/1.jpg", "chat/2.jpg", "embodied/safe/1.png", "embodied/unsafe/1.png")):
        picture(folder / name, 50 * colour, "JPEG" if name.endswith("jpg") else "PNG")
    write_json(folder / "combined.json", {"chat": [chat], "embodied": [embodied]})
    return folder


def vscbench(folder: Path, **changed: str) -> Path:
    """A request beside three safe and three unsafe images, as its repository's code reads them."""
    names = [f"{situation}_img_{number}" for situation in ("safe", "unsafe") for number in range(3)]
    row = {"Prompt": "How do I use this?", "Category": "drugs"} | {name: f"{name}.png" for name in names} | changed
    for colour, name in enumerate(names):
        picture(folder / "vscbench_image_centric_images" / "drugs" / f"{name}.png", 20 * colour)
    book = openpyxl.Workbook()
    for line in (list(row), list(row.values())):
        book.active.append(line)
    book.save(folder / "vscbench_image_centric.xlsx")
    return folder


def figstep(folder: Path, subset: str = "SafeBench") -> Path:
    """Four lists of two topics."""
    file = {"SafeBench": "safebench.csv", "SafeBench-Tiny": "SafeBench-Tiny.csv"}[subset]
    lines = ["dataset,category_id,task_id,category_name,question,instruction"]
    for category, task, topic in (("1", "1", "A"), ("1", "2", "A"), ("10", "1", "B"), ("10", "50", "B")):
        lines.append(f'ForbidQI,{category},{task},Topic {topic},"What, then?",List of things.')
        picture(folder / "data" / "images" / subset / f"query_ForbidQI_{category}_{task}_6.png")
    (folder / "data" / "question").mkdir(parents=True)
    (folder / "data" / "question" / file).write_text("\n".join(lines) + "\n")
    return folder


def vlsbench(folder: Path) -> Path:
    """Two questions of one category."""
    rows = []
    for number in range(2):
        picture(folder / f"imgs/{number}.png", number)
        row = {"instruction_id": number, "instruction": f"question {number}", "image_path": f"imgs/{number}.png"}
        rows.append(row | {"category": "Violent", "sub_category": f"kind {number}", "source": "generation"})
    write_json(folder / "data.json", rows)
    return folder


def mir_safetybench(folder: Path) -> Path:
    """As its `extract_data.py` writes it: two questions of one category and relation, of two images and of three."""
    rows = []
    for number in (7, 9):
        names = [f"images/Analogy/Analogy_{number}_{i}.png" for i in range(2 if number == 7 else 3)]
        for colour, name in enumerate(names):
            picture(folder / "Hate_Speech" / name, 10 * number + colour)
        row = {"id": number, "original_question": "?", "relationship_type": "Analogy", "image_keywords": []}
        rows.append(row | {"revised_prompt": f"question {number}", "images": names, "iteration": 1})
    write_json(folder / "Hate_Speech" / "Analogy_final.json", rows)
    return folder


def jailbreakv(folder: Path) -> Path:
    """Two attacks of two formats."""
    lines = ["id,jailbreak_query,redteam_query,format,policy,image_path,from,selected_mini,transfer_from_llm"]
    for number, form in enumerate(("Template", "SD")):
        picture(folder / f"llm_transfer_attack/{number}.png", number)
        lines.append(
            f'{number},"Once, in ""{number}""","?",{form},Malware,llm_transfer_attack/{number}.png,x,True,True'
        )
    (folder / "mini_JailBreakV_28K.csv").write_text("\n".join(lines) + "\n")
    return folder


def pope(folder: Path) -> Path:
    """Two questions of each split, about the same image; the first one's answer is yes."""
    picture(folder / "val2014" / "COCO_val2014_1.jpg", 9, "JPEG")
    for split in ("random", "popular", "adversarial"):
        rows = [
            {
                "question_id": 1 + n,
                "image": "COCO_val2014_1.jpg",
                "text": f"Is there a {what} in the image?",
                "label": a,
            }
            for n, (what, a) in enumerate((("dog", "yes"), (f"{split} cat", "no")))
        ]
        (folder / f"coco_pope_{split}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def mme(folder: Path) -> Path:
    """Two images of `existence`, beside their texts, and one of `artwork` and of `code_reasoning`."""
    for name in ("existence/1", "existence/2", "artwork/{}/3", "code_reasoning/4"):
        picture(folder / f"{name.format('images')}.{'jpg' if name[0] == 'a' else 'png'}", len(name))
        text = folder / f"{name.format('questions_answers_YN')}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        end = "Please answer yes or no."
        text.write_text(f'Is this "{name[-1]}"? {end}\tYes\nIs this a sea? {end}\tNo\n')
    return folder


def mmbench(folder: Path) -> Path:
    """A question with two choices, in both orders, whose image stands once, and one with a hint, in one."""
    stream = io.BytesIO()
    Image.effect_noise((4, 4), 50).convert("RGB").save(stream, "PNG")
    image = base64.b64encode(stream.getvalue()).decode()
    rows = [
        ("3", "What is it?", "", "a cat", "a dog", "", "A", image),
        ("1000003", "What is it?", "", "a dog", "a cat", "", "B", "3"),
        ("12", "Which one?", "Look\nup.", "left", "right", "none", "C", image),
    ]
    lines = ["\t".join(("index", "question", "hint", "A", "B", "C", "answer", "image", "category", "l2-category"))]
    lines += ["\t".join((*(f'"{cell}"' for cell in row), f"kind {row[0][-1]}", "logic_reasoning")) for row in rows]
    (folder / "MMBench_DEV_EN.tsv").write_text("\n".join(lines) + "\n")
    return folder
