"""`mmsafe.doctor`: what it says, what it advises, and how it ends."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from launching import Ended, launch

from mmsafe import __version__
from mmsafe.estimate import diagnosis
from mmsafe.estimate.machine import GIB, Memory, disk, host
from mmsafe.estimate.shape import measured
from mmsafe.models.vlm import VLM

SEVEN = ("model=llava7b", "data.batch_size=1")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Memory]:
    """One without a GPU, and with 16 GiB free; a test may add GPUs."""
    here: list[Memory] = []
    monkeypatch.setattr(diagnosis, "gpus", lambda: here)
    monkeypatch.setattr(diagnosis, "host", lambda: Memory("host memory", 16 * GIB, 32 * GIB))
    return here


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def doctor(place: Path, *overrides: str) -> Ended:
    return launch("doctor", *overrides, cwd=place, cache=place.parent / "cache")


def test_a_default_run_fits_a_laptop_and_asking_leaves_nothing(place: Path):
    ended = doctor(place)
    assert ended.status == 0, ended.err
    for name in (f"mmsafe {__version__}", "Python 3", "torch ", "transformers ", "pytorch-lightning ", "CUDA "):
        assert name in ended.out
    assert "no GPU\nhost memory: 16.0 of 32.0 GiB free" in ended.out
    assert f"GiB free in {place}" in ended.out
    assert "verdict: fits" in ended.out
    assert "doctor.gpu_memory_gib=80 doctor.devices=8" in ended.out
    assert not list(place.iterdir())


def test_what_does_not_fit_is_shown_by_parts_and_what_to_change_is_said(place: Path):
    words = ("reference=frozen", "model.gradient_checkpointing=false", "scoring=padded", "doctor.gpu_memory_gib=24")
    ended = doctor(place, *SEVEN, *words, "doctor.devices=8")
    assert ended.status == 1
    for part, size in {"weights": 26.31, "gradients": 25.18, "optimiser": 50.37, "reference": 25.18}.items():
        assert re.search(rf"^  {part} +{size} GiB$", ended.out, flags=re.M)
    assert "7.06 G parameters × 4 bytes; 6.76 G trained × 4 bytes" in ended.out
    assert "end of forward" in ended.out
    advice = ended.out.partition("verdict: does not fit\n")[2]
    free, _, priced = advice.partition("then one of:\n")
    assert [line.split()[0] for line in free.splitlines()[1:]] == [
        "reference=cached",
        "scoring=shared_prefix",
        "model.gradient_checkpointing=true",
    ]
    assert re.search(r"peft=lora model.dtype=bfloat16 .*, fits:", priced)
    assert re.search(r"strategy=deepspeed_zero3 .*, fits, but barely: split over 8 GPUs", priced)


def test_advice_can_be_followed_and_ends_once_the_free_changes_are_enough(place: Path):
    """What is said to fit does fit, and takes as much as was said."""
    words = (*SEVEN, "peft=lora", "model.dtype=bfloat16", "doctor.gpu_memory_gib=24")
    before = doctor(place, *words, "reference=frozen").out
    assert "one of" not in before
    (size,) = re.findall(r"reference=cached +([\d.]+) GiB, fits:", before)
    ended = doctor(place, *words)
    assert ended.status == 0
    assert re.findall(r"^  total +([\d.]+) GiB", ended.out, flags=re.M) == [size]


def test_a_7b_in_full_on_one_card_is_advised_and_the_advice_can_be_followed(place: Path):
    words = (*SEVEN, "doctor.gpu_memory_gib=80", "model.gradient_checkpointing=true")
    ended = doctor(place, *words)
    assert ended.status == 1
    eight = "optimizer=adamw_8bit optimizer.rounding=stochastic model.dtype=bfloat16"
    (size,) = re.findall(rf"{eight} +([\d.]+) GiB, fits:", ended.out)
    ended = doctor(place, *words, *eight.split())
    assert ended.status == 0
    assert re.findall(r"^  total +([\d.]+) GiB", ended.out, flags=re.M) == [size]
    assert "6.76 G trained × 2 bytes, 2.03 more each by optimizer=adamw_8bit" in ended.out
    for refused, lacking in (("strategy=fsdp", "whole weights"), ("peft=lora", "peft=none")):
        assert lacking in doctor(place, *words, *eight.split(), refused).err


def test_none_is_enough(place: Path):
    ended = doctor(place, *SEVEN, "doctor.gpu_memory_gib=2", "doctor.host_memory_gib=8")
    assert ended.status == 1
    assert "none of them is enough alone" in ended.out


def test_a_large_model_does_not_fit_into_the_host_of_a_machine_without_gpu(place: Path):
    ended = doctor(place, "model=llava13b", "objective=bpo", "data.batch_size=1")
    assert ended.status == 1
    assert "13.35 G parameters × 4 bytes" in ended.out
    assert "it would run on the CPU" in ended.out


def test_the_free_memory_of_the_fullest_gpu_counts(place: Path, machine: list[Memory]):
    machine += [Memory("GPU 0, H100", 79 * GIB, 80 * GIB), Memory("GPU 1, H100", 30 * GIB, 80 * GIB)]
    ended = doctor(place, *SEVEN, "peft=lora")
    assert ended.status == 1
    assert "GPU 0, H100: 79.0 of 80.0 GiB free\nGPU 1, H100: 30.0 of 80.0 GiB free" in ended.out
    assert "at hand: 29.00 GiB" in ended.out
    assert "bf16-mixed" in ended.out
    assert "no GPU here" not in ended.out
    machine.pop()
    assert doctor(place, *SEVEN, "peft=lora").status == 0
    assert "it would run on the CPU" in doctor(place, "trainer.accelerator=cpu").out


def test_gpus_without_a_size_are_not_judged(place: Path):
    ended = doctor(place, *SEVEN, "doctor.devices=8")
    assert ended.status == 0
    assert "verdict: unknown" in ended.out
    assert "set doctor.gpu_memory_gib" in ended.out


@pytest.mark.parametrize(
    ("words", "batch"),
    [
        (("doctor.prompt_tokens=620", "doctor.response_tokens=70"), "620 + 3 responses of 70 tokens), as 1 × 832"),
        (("lengths.max_length=768", "generation.max_new_tokens=128"), "640 + 3 responses of 128 tokens)"),
        (("lengths.max_length=null",), f"{576 + 512} + 3 responses of 256 tokens)"),
        (("objective=mdpo", "doctor.prompt_tokens=600", "doctor.response_tokens=100"), "tokens), as 2 × 800 tokens"),
    ],
)
def test_lengths_are_those_asked_for_within_the_limit(place: Path, words: tuple[str, ...], batch: str):
    assert batch in doctor(place, *SEVEN, *words).out


def test_a_folder_is_read_by_its_config_alone(place: Path, llava: VLM):
    llava.model.config.save_pretrained(place / "model")
    ended = doctor(place, "model=llava_hf", "model.path=.")
    assert ended.status == 0, ended.err
    assert f"{measured(llava.model).total / 1e6:.2f} M parameters" in ended.out


def test_a_folder_in_the_original_format_is_read_too(place: Path):
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    (place / "config.json").write_text(json.dumps({"model_type": "llava", "mm_hidden_size": 1024, **sizes}))
    assert "7.06 G parameters" in doctor(place, "model=llava_hf", "model.path=.").out


def test_a_hub_name_that_is_not_here_is_unknown(place: Path):
    ended = doctor(place, "model=llava_hf", "model.path=someone/something")
    assert ended.status == 0
    assert "model.path=someone/something: not on this machine, so its size is not known" in ended.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["doctor.gpu_memory=24"], "doctor.gpu_memory: doctor has no option 'gpu_memory'; did you mean"),
        (["objective=bppo"], "objective=bppo: no such objective; did you mean 'bpo'?"),
        (["doctor.devices=0"], "doctor.devices=0: "),
        (["model=llava_hf", "model.path=./absent"], "model.path=./absent: no such folder"),
        (["model=llava_hf", "model.path=."], "model.path=.: has no config.json"),
        (["model=llava_hf", "model.path=other"], "model.path=other: config.json says model_type llama: no family"),
    ],
)
def test_bad_input_is_one_line_and_status_2(words: list[str], message: str, place: Path):
    (place / "other").mkdir()
    (place / "other" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    ended = doctor(place, *words)
    assert ended.status == 2
    assert ended.err.startswith(f"mmsafe.doctor: {message}")
    assert len(ended.err.splitlines()) == 1


def test_torch_waits_until_the_config_is_checked():
    code = "import sys, mmsafe.doctor; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_this_machine_has(tmp_path: Path):
    found = host()
    assert 0 < found.free <= found.total
    assert disk(tmp_path / "not" / "yet" / "made") > 0
