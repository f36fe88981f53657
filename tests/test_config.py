"""conf/ against the code: every option composes, is typed, and mirrors the class that it names."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic_core import PydanticUndefined
from roots import ROOTS

from mmsafe.core.config import built, conf_dir, suggestion, typed, without_hydra
from mmsafe.core.errors import UserError
from mmsafe.experiment.evaluate_config import EvaluateConfig

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
# Options that a user has to set, where the chosen option has them.
NEEDED = {"path": "some/path", "base_url": "http://localhost/v1", "model": "name"}
RATED = ["a=some/path", "b=other/path"]
NEEDED_BY_ROOT = {
    "export": ["checkpoint=some/path", "out=other/path"],
    "compare": RATED,
    "agreement": RATED,
    "build": ["out=other/path"],
    "prepare": ["out=other/path"],
}

PUBLISHED = ("mm_safetybench", "harmeval", "figstep", "siuo", "mossbench", "mssbench")
NAMESAKES = (*PUBLISHED, "paper", "co_defence", "cheating")  # judges that benchmarks of this name begin with
SFT_ONLY = ("vlguard", "llava_instruct", "trl_sft")
READERS = ("trl", "spa_vl", "beavertails_v", "rlaif_v", "rlhf_v", "hh_text", *SFT_ONLY)
ONE_PART = "+data@data.parts.a=microworld"
PARTS = ("data=mmsafe_po", "benchmark.mm_safetybench.path=some/path", "benchmark.harmeval.path=some/path")

# Where a YAML file says something else than its class on purpose.
OTHER_THAN_CLASS = {
    **{f"data={name}": {"path", "num_workers"} for name in ("mmsafe_po", *READERS)},  # NEEDED
    "data=spa_vl": {"path", "num_workers", "split", "eval_split"},
    "data=hh_text": {"path", "num_workers", "split", "eval_split", "on_bad"},
    "data=beavertails_v": {"path", "num_workers", "split"},
    "data=mix": {"parts", "num_workers"},
    **{f"benchmark={name}": {"path"} for name in PUBLISHED},
    "benchmark=paper": {"mm_safetybench", "harmeval"},
    "conversations": {"path"},  # NEEDED
    "entity_image=wikipedia_google": {"google"},
    "model=tiny": {"learning_rate"},
    "model=random": {"learning_rate", "pretraining"},
    "model=small": {"learning_rate", "architecture"},
    "model=llava_hf": {"path"},
    "model=llava_original": {"path", "gradient_checkpointing"},
    "model=llava7b": {"path", "gradient_checkpointing"},
    "model=llava13b": {"path", "gradient_checkpointing"},
    "objective=bpo_concat": {"mode"},
    "peft=lora": {"method"},
    "peft=lora_paper": {"method", "rank", "alpha"},
    "peft=qlora": {"method"},
    "strategy=deepspeed_zero3_offload": {"offload"},
    "judge=guard": {"model"},
    "judge=llama_guard": {"model"},
    "vision_cache=memory": {"store"},
    "vision_cache=disk": {"store"},
    "generation=default": {"batch_size"},
    "evaluation": {"batch_size"},
}

# Choices that go together only: `evaluate` takes its data from its benchmark.
BESIDE = {
    ("evaluate", "data", "mmsafe_po"): ("benchmark=mmsafe_po",),
    ("evaluate", "judge", "keywords"): ("benchmark=mmsafe_po",),
    ("evaluate", "judge", "mmsafe_po"): ("benchmark=mmsafe_po",),
    ("evaluate", "judge", "openai"): ("benchmark=mmsafe_po",),
    ("train", "judge", "openai"): ("data=mmsafe_po",),
    ("train", "reference", "adapter_off"): ("peft=lora",),
    ("train", "data", "hh_text"): ("objective=dpo",),
    **{("evaluate", "judge", name): ("benchmark=mmsafe_po",) for name in ("guard", "llama_guard")},
    **{("train", "judge", name): ("data=mmsafe_po",) for name in ("guard", "llama_guard")},
    ("train", "judge", "keywords"): ("data=mmsafe_po",),
    ("train", "judge", "mmsafe_po"): ("data=mmsafe_po",),
    ("train", "benchmark", "microworld"): ("data=microworld",),
    ("train", "benchmark", "mmsafe_po"): ("data=mmsafe_po",),
    **{("evaluate", "judge", name): ("benchmark=mmsafe_po",) for name in NAMESAKES},
    **{("train", "judge", name): ("data=mmsafe_po",) for name in NAMESAKES},
    **{(root, "benchmark", "paper"): PARTS for root in ("train", "evaluate")},
    **{("evaluate", "data", name): (f"benchmark={name}",) for name in READERS},
    **{("evaluate", "judge", name): ("benchmark=mmsafe_po",) for name in (*READERS, "mix")},
    **{("train", "judge", name): ("data=mmsafe_po",) for name in (*READERS, "mix")},
    **{("train", "data", name): ("objective=sft",) for name in SFT_ONLY},
    **{(root, "data", "mix"): (ONE_PART,) for root in ("train", "blind", "prepare", "inspect", "tag")},
    ("evaluate", "data", "mix"): ("benchmark=mix", ONE_PART),
    ("evaluate", "benchmark", "mix"): (ONE_PART,),
    **{("evaluate", "benchmark", probe): ("data=microworld",) for probe in ("co_defence", "cheating")},
}

ENGINES = {"local", "endpoint"}  # of `generation`, what answers in an evaluation; the others are of sampling
OF_TRAINING = {"paper_dpo", "paper_bpo"}  # experiments that choose what an evaluation does not have


def groups(root: str) -> dict[str, str]:
    """Groups of a root's defaults list, and the option that each has there; those of a root that it extends too."""
    defaults = yaml.safe_load((CONF / f"{root}.yaml").read_text())["defaults"]
    pairs = [next(iter(entry.items())) for entry in defaults if isinstance(entry, dict)]
    named = [(group.removeprefix("optional "), option) for group, option in pairs if not group.startswith("override ")]
    found = {str(group): str(option) for group, option in named}
    for extended in [entry for entry in defaults if isinstance(entry, str) and entry != "_self_"]:
        found |= groups(extended)
    return found


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def every_choice() -> Iterator[tuple[str, str, str]]:
    for root in [root for root in ROOTS if root != "doctor"]:  # its groups are those of `train`
        for group in groups(root):
            for option in options(group):
                of_training = (root, group) == ("evaluate", "experiment") and option in OF_TRAINING
                of_another_root = group == "generation" and (root == "evaluate") != (option in ENGINES)
                if not of_training and not of_another_root:
                    yield root, group, option


def composed(root: str, *overrides: str) -> dict[str, Any]:
    """The resolved config, with what a user has to set."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = without_hydra(compose(root, [*NEEDED_BY_ROOT.get(root, ()), *overrides], return_hydra_config=True))
    for node in [cfg[group] for group in cfg]:
        for key, value in NEEDED.items():
            if OmegaConf.is_dict(node) and key in list(node) and OmegaConf.select(node, key) is None:
                node[key] = value
    config = typed(cfg, ROOTS[root])
    assert isinstance(config, ROOTS[root])
    return dict(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]


def target(node: Mapping[str, Any]) -> type[Any]:
    module, _, name = node["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def differences(node: Mapping[str, Any], cls: type[Any]) -> set[str]:
    """Checks that the keys are the fields, at any depth, and names the keys whose value is not the class's default."""
    fields = cls.__pydantic_fields__
    given = {key: value for key, value in node.items() if key != "_target_"}
    assert set(given) == set(fields), cls.__name__
    differing = set()
    for name, field in fields.items():
        default = field.get_default(call_default_factory=True)
        if default is not PydanticUndefined and plain(default) != given[name]:
            differing.add(name)
    return differing


def plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in type(value).__pydantic_fields__}  # type: ignore[attr-defined]
    return value


@pytest.mark.parametrize("root", ROOTS)
def test_root_composes_with_its_defaults_and_has_the_keys_of_its_class(root: str):
    config = composed(root)
    assert set(config) == set(ROOTS[root].__pydantic_fields__)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("root", "group", "option"),
    [
        pytest.param(
            *found, id="-".join(found), marks=[pytest.mark.slow] * (found[0] != "train" and found[1] in groups("train"))
        )
        for found in every_choice()
    ],
)
def test_every_option_composes_is_typed_and_mirrors_its_class(root: str, group: str, option: str):
    node = composed(root, f"{group}={option}", *BESIDE.get((root, group, option), ())).get(group, {})
    if "_target_" in node:
        name = f"{group}={yaml_source(group, option)}"
        assert differences(node, target(node)) == OTHER_THAN_CLASS.get(name, set())
    for inner in [value for value in node.values() if isinstance(value, dict) and "_target_" in value]:
        assert differences(inner, target(inner)) == set()


def yaml_source(group: str, option: str) -> str:
    """The option itself, or the one that it merely stands for (`judge/microworld` is `rules`)."""
    content = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    return content["defaults"][0] if set(content) == {"defaults"} else option


@pytest.mark.parametrize("root", ROOTS)
def test_options_written_in_a_root_mirror_their_class(root: str):
    config = composed(root)
    inline = [key for key in config if key not in groups(root) and isinstance(config[key], dict)]
    assert all("_target_" in config[key] for key in inline)
    for key in inline:
        assert differences(config[key], target(config[key])) == OTHER_THAN_CLASS.get(key, set()), key


def test_every_group_belongs_to_a_root_and_no_exception_is_stale():
    folders = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra"}
    assert folders == {group for root in ROOTS for group in groups(root)}
    named = {name for name in OTHER_THAN_CLASS if "=" in name}
    assert named <= {f"{group}={option}" for group in folders for option in options(group)}


def test_every_file_says_whom_it_configures():
    for path in CONF.glob("*/*.yaml"):
        text = path.read_text()
        content = yaml.safe_load(text)
        is_leaf = content == {} or any("_target_" in str(line) for line in text.splitlines())
        assert is_leaf or "defaults" in content or "@package _global_" in text, path


def test_only_experiments_and_sweeps_are_global():
    found = {path.parent.name for path in CONF.rglob("*.yaml") if "@package _global_" in path.read_text()}
    assert found == {"experiment", "sweep"}


@pytest.mark.parametrize(
    "objective", [pytest.param(name, marks=[pytest.mark.slow] * (name != "bpo")) for name in options("objective")]
)
@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes_with_every_objective_and_changes_something(experiment: str, objective: str):
    others = [f"objective={objective}", "seed=3"]
    assert composed("train", f"experiment={experiment}", *others) != composed("train", *others)


def test_every_experiment_and_every_sweep_that_was_run_has_its_page_in_the_lab_book():
    pages = {path.parent.name for path in (ROOT / "experiments").glob("*/README.md")}
    assert set(options("experiment")) | set(options("sweep")) - {"optuna", "paper_grid"} == pages


def test_benchmark_decides_data_and_judge_of_an_evaluation():
    config = composed("evaluate", "benchmark=mmsafe_po")
    assert config["data"]["_target_"].endswith("MMSafePO")
    assert config["judge"]["_target_"].endswith("Keywords")
    other = composed("evaluate", "benchmark=mmsafe_po", "judge=rules")
    assert other["judge"]["_target_"].endswith("Rules")


def test_a_benchmark_that_brings_its_prompts_needs_no_data_and_leaves_those_of_training():
    assert "data" not in composed("evaluate", "benchmark=harmeval")
    assert composed("train", "data=mmsafe_po", "benchmark=harmeval")["data"]["_target_"].endswith("MMSafePO")


@pytest.mark.parametrize("name", [*PUBLISHED, "co_defence", "cheating", "paper"])
def test_a_benchmark_that_lacks_something_says_what_and_where_to_put_it(name: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = without_hydra(compose("evaluate", [f"benchmark={name}"], return_hydra_config=True))
    with pytest.raises(UserError, match=r"benchmark\.path is not set: get .*https://|add data=m") as caught:
        typed(cfg, EvaluateConfig)
    assert "\n" not in str(caught.value)


def test_data_decides_benchmark_and_judge_of_a_training_run():
    config = composed("train", "data=mmsafe_po")
    assert config["benchmark"]["_target_"].endswith("MMSafePOTest")
    assert config["judge"]["_target_"].endswith("Keywords")


@pytest.mark.parametrize(("model", "rate"), [("tiny", 1e-4), ("llava_hf", 1e-6)])
def test_learning_rate_follows_the_model_unless_it_is_set(model: str, rate: float):
    assert composed("train", f"model={model}")["optimizer"]["lr"] == rate
    assert composed("train", f"model={model}", "optimizer.lr=0.5")["optimizer"]["lr"] == 0.5


def test_sampling_follows_the_seed_of_the_run():
    assert composed("train", "seed=7")["generation"]["seed"] == 7
    assert composed("train", "seed=7", "generation.seed=3")["generation"]["seed"] == 3


def test_the_paper_s_settings_are_the_defaults_of_bpo_on_llava():
    config = composed("train", "model=llava13b")
    assert config["objective"]["beta"] == 0.1
    assert config["objective"]["blind_weight"] == 1.0
    assert config["objective"]["mode"] == "joint"
    wanted = {"lr": 1e-6, "schedule": "cosine", "warmup_steps": 10, "weight_decay": 0.0}
    assert wanted.items() <= config["optimizer"].items()
    assert config["trainer"]["gradient_clip_val"] == 1.0
    assert config["trainer"]["max_epochs"] == 1
    assert config["model"]["train"] == {"language": True, "projector": True, "vision": False}
    assert config["model"]["image_aspect_ratio"] == "pad"


def test_a_nested_plain_group_is_built_by_the_targets_in_it():
    config = typed(
        OmegaConf.create({"logger": {"wandb": {"_target_": "mmsafe.reporting.loggers.Wandb", "tags": ["a"]}}}),
        LoggersOnly,
    )
    assert config.logger["wandb"].tags == ["a"]
    assert config.logger["wandb"].project == "mmsafe"


class LoggersOnly:
    def __init__(self, logger: dict[str, Any]) -> None:
        self.logger = logger


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("betta", ["alpha", "beta"], "; did you mean 'beta'?"),
        ("zzz", ["b", "a"], "; known: a, b"),
        ("zzz", [], ""),
    ],
)
def test_suggestion(word: str, known: list[str], hint: str):
    assert suggestion(word, known) == hint


@pytest.mark.parametrize("name", ["mmsafe.settings.Lengths", "mmsafe.data.lengths.Lengths"])
def test_a_class_that_an_earlier_version_had_elsewhere_is_found_by_its_name(name: str):
    assert type(built({"_target_": name, "max_length": 7}, "lengths")).__name__ == "Lengths"


def test_conf_is_found_beside_the_package_and_a_broken_install_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert conf_dir() == CONF
    package = tmp_path / "site-packages" / "mmsafe"
    (package / "conf").mkdir(parents=True)
    monkeypatch.setattr("mmsafe.core.config.__file__", str(package / "core" / "config.py"))
    assert conf_dir() == package / "conf"  # as in a wheel
    (package / "conf").rmdir()
    with pytest.raises(UserError, match="reinstall mmsafe"):
        conf_dir()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.train.language=false", "model.train.projector=false"), "nothing is trained"),
        (("scoring=padded", "trainer.devices=2"), "several devices need scoring=shared_prefix"),
        (("scoring=padded", "vision_cache=memory"), "vision_cache: needs scoring=shared_prefix"),
        (("model.train.vision=true", "vision_cache=disk"), "vision_cache: a tower that is trained"),
        (("model=llava_hf", "model.path=x", "model.dtype=float16"), "float16: too narrow to train"),
        (("model=llava_hf", "model.path=x", "model.attention=flash_attention_2"), "or scoring=padded"),
        (("peft=lora", "peft.dropout=1"), "peft.dropout=1"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(words: tuple[str, ...], message: str):
    with pytest.raises(UserError, match=message):
        composed("train", *words)
