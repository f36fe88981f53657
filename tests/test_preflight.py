"""What a user is told about a command line that cannot work: one line, naming the option, before anything heavy."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from roots import ROOTS

from mmsafe.core.config import conf_dir, typed, without_hydra
from mmsafe.core.errors import UserError
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.runs.overrides import quoting, readable
from mmsafe.runs.preflight import check

HEAVY = ("torch", "pytorch_lightning", "transformers", "datasets", "scipy", "peft", "wandb")
EIGHT = ("optimizer.global_batch_size=8",)
HALF = ("model=llava_hf", "model.path=.", "model.dtype=bfloat16")
ON_CPU = ("model=random", "trainer.accelerator=cpu")
DEVICE_JUDGE = ("benchmark=mmsafe_po", "data=microworld", "judge=llama_guard", "judge.model=org/guard")
NAMED = ("objective", "trainer", "logger")
CHECKPOINTS = ("llava_hf", "llava7b", "llava13b")
SERVED = ("rewording.base_url=http://localhost/v1", "rewording.model=name")  # what the default of mmsafe.build needs


def refusal(*words: str, command: str = "train") -> str:
    """The message about a command line, which is one line."""
    with pytest.raises(UserError) as caught:
        check(command, ROOTS[command], list(words))
    message = str(caught.value)
    assert message
    assert message.splitlines() == [message]
    return message


def accepted(*words: str, command: str = "train") -> None:
    check(command, ROOTS[command], list(words))


def words_of(value: Any) -> str:
    """A name of a case."""
    return " ".join(value) if isinstance(value, list) else ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        # unknown keys
        (["objective.betta=0.2"], "objective.betta: objective=bpo has no option 'betta'; did you mean 'beta'?"),
        (["data.sise=8"], "data.sise: data=microworld has no option 'sise'; did you mean 'size'?"),
        (["model.pretraining.tower.lrr=1"], "model.pretraining.tower has no option 'lrr'; did you mean 'lr'?"),
        (["lengths.maxlength=9"], "lengths.maxlength: lengths has no option 'maxlength'; did you mean 'max_length'?"),
        (["sed=1"], "sed: there is no option 'sed'; did you mean 'seed'?"),
        (["objective.beta.x=1"], "objective.beta.x: objective.beta has no option 'x'"),
        (["++objective.betaa=0.2"], "objective.betaa: objective=bpo has no option 'betaa'; did you mean 'beta'?"),
        (["~sed"], "sed: there is no option 'sed'; did you mean 'seed'?"),
        (["+typo=1"], "typo: TrainConfig has no such option"),
        (["+objective.betta=1"], "objective.betta: BPO has no such option; did you mean"),
        # the right option at the wrong place
        (["max_steps=2"], "max_steps: there is no option 'max_steps'; did you mean 'trainer.max_steps'?"),
        (["beta=2"], "beta: there is no option 'beta'; did you mean 'objective.beta'?"),
        (["objective=sft", "objective.beta=0.1"], "objective.beta: objective=sft has no option 'beta'; known: average"),
        (["objective=dpo", "objective.mode=joint"], "objective.mode: objective=dpo has no option 'mode'"),
        # misspelt groups and options
        (["objectiv=bpo"], "objectiv: there is no option 'objectiv'; did you mean 'objective'?"),
        (["objective=bppo"], "objective=bppo: no such objective; did you mean 'bpo'?"),
        (["model=gpt"], "model=gpt: no such model; known: gemma3_4b, hf, internvl3_1b, internvl3_2b, internvl3_8b,"),
        (["logger=[csv,wandbb]"], "logger=wandbb: no such logger; did you mean 'wandb'?"),
        (["experiment=micro"], "experiment=micro: no such experiment; did you mean 'microworld'?"),
        # values
        (["objective.beta=abc"], 'objective.beta="abc": should be a valid number'),
        (["objective.beta=true"], "objective.beta=true: should be a valid number"),
        (["objective.beta=0"], "objective.beta=0: should be greater than 0"),
        (["objective.beta=nan"], "objective.beta=NaN: should be a finite number"),
        (["data.cue_correlation=1.2"], "data.cue_correlation=1.2: should be less than or equal to 1"),
        (["seed=4294967296"], "seed=4294967296: should be less than 4294967296"),
        (["trainer.max_steps=1.5"], "trainer.max_steps=1.5: should be a valid integer"),
        (["trainer.precision=bf16"], 'trainer.precision="bf16": must be one of auto, 32-true, bf16-mixed, 16-mixed'),
        (["objective.mode=concatt"], "must be one of joint, concat; did you mean 'concat'?"),
        (["objective.mode=concat", "objective.blind_weight=2"], "blind_weight has no meaning in mode=concat"),
        (["name=3"], "name=3: should be a valid string"),
        (["data=mmsafe_po"], "data.path is not set"),
        (["model=llava_hf"], "model.path"),
        (["data=mmsafe_po", "data.path=.", "benchmark=microworld"], "needs data=microworld"),
        (["model.train.language=false", "model.train.projector=false"], "nothing is trained"),
        (["scoring=padded", "trainer.devices=2"], "several devices need scoring=shared_prefix"),
        (["scoring=padded", "vision_cache=memory"], "vision_cache: needs scoring=shared_prefix"),
        (["model.train.vision=true", "vision_cache=disk"], "vision_cache: a tower that is trained"),
        (["model=llava_hf", "model.path=.", "model.dtype=float16"], "float16: too narrow to train"),
        (["model=llava_hf", "model.path=.", "model.attention=flash_attention_2"], "or scoring=padded"),
        (["peft=lora", "peft.dropout=1"], "peft.dropout=1"),
        ([*EIGHT, "data.batch_size=3", "trainer.devices=2"], "batch_size=8 is no multiple of data.batch_size"),
        ([*EIGHT, "data.batch_size=4", "trainer.accumulate_grad_batches=2"], "global_batch_size decides"),
        (
            ["data.max_tokens=4096", "scoring=padded"],
            "data.max_tokens: several prompts in a line need scoring",
        ),
        (["data.max_tokens=4096", "data.group_by_length=true"], "set data.group_by_length=false"),
        ([*EIGHT, "data.max_tokens=4096"], "global_batch_size: data.max_tokens takes as many items as fit"),
        (["model.compile=true", "strategy=fsdp"], "model.compile: needs strategy=auto or ddp"),
        (["~judge"], "judge=keywords cannot tell what benchmark=microworld measures"),
        # optimisers
        (["optimizer=muon", "strategy=fsdp"], "optimizer=muon: needs whole weights, which strategy=fsdp cuts"),
        (["optimizer=adamw_8bit", "strategy=fsdp"], "optimizer=adamw_8bit: needs whole weights"),
        (["optimizer=adafactor", "strategy=fsdp"], "optimizer=adafactor: needs whole weights"),
        (["optimizer=muon", "peft=lora"], "optimizer=muon: trains the language model's own matrices"),
        (["optimizer.rounding=kahan"], "optimizer.rounding=kahan: is for bf16 weights; set model.dtype=bfloat16"),
        ([*HALF, "optimizer.rounding=stochastic", "peft=lora"], "model.dtype=bfloat16 peft=none"),
        ([*HALF, "optimizer.rounding=stochastic", "strategy=fsdp"], "strategy=fsdp cuts weights; choose strategy=ddp"),
        (["optimizer.fused=true", "strategy=fsdp"], "optimizer.fused=true: works neither on shards"),
        (["optimizer.fused=true", "trainer.precision=16-mixed"], "optimizer.fused=true: works neither on shards"),
        (["optimizer.lr_by_part.vision=1e-5"], "optimizer.lr_by_part.vision=1e-05: nothing of that is trained"),
        (["optimizer.lr_by_part.language=1e-5", "peft=lora"], "optimizer.lr_by_part.language=1e-05: nothing"),
        (["optimizer.lr_by_part.adapters=1e-5"], "optimizer.lr_by_part.adapters=1e-05: nothing of that is trained"),
        (["optimizer.schedule=linear", "optimizer.min_lr_ratio=0.1"], "min_lr_ratio works with schedule=cosine or wsd"),
        (["optimizer.lr_by_part.head=1e-5"], "optimizer.lr_by_part has no option 'head'"),
        # a way of training on devices
        (
            [*ON_CPU, "strategy=deepspeed_zero2"],
            "DeepSpeed needs a GPU, not trainer.accelerator=cpu; see",
        ),
        ([*ON_CPU, "strategy=fsdp", "reference=frozen"], "reference: weights in parts need reference=cached"),
        (
            [*ON_CPU, "strategy=fsdp", "vision_cache=memory"],
            "vision_cache: with weights in parts, all devices",
        ),
        ([*ON_CPU, "strategy=fsdp", "scoring=padded"], "weights in parts need scoring=shared_prefix"),
        (
            [*ON_CPU, "strategy=fsdp", "trainer.precision=16-mixed"],
            "precision=16-mixed: works with strategy=auto or",
        ),
        ([*ON_CPU, "strategy=deepspeed_zero2", "strategy.offload=true"], "strategy: offload works in stage 3 only"),
        ([*ON_CPU, "strategy=deepspeed_zero4"], "strategy=deepspeed_zero4: no such strategy; did you mean"),
        # adapters
        (["peft=lora", "model.train.vision=true"], "adapters train the language model and never the tower"),
        (["peft=lora", "model.train.language=false"], "adapters train the language model"),
        (["reference=adapter_off"], "reference=adapter_off: there is no adapter; choose one by peft=lora"),
        (["peft=qlora", "strategy=fsdp"], "strategy=fsdp: 4-bit weights stay whole; peft=qlora needs auto or ddp"),
        # validation
        (["trainer.validate_every=1.5"], "trainer.validate_every"),
        (["trainer.validate_every=0"], "trainer.validate_every"),
        (["checkpoint.monitor=val/loss"], "checkpoint.monitor, validate.generate: need trainer.validate_every, such"),
        (["validate.generate=4"], "checkpoint.monitor, validate.generate: need trainer.validate_every"),
        (["early_stopping.patience=2"], "checkpoint.monitor: early stopping and load_best go by a metric; name it"),
        (["checkpoint.load_best=true"], "checkpoint.monitor: early stopping and load_best go by a metric; name it"),
        (["trainer.validate_every=1", "checkpoint.monitor=val/x"], "checkpoint.mode: it is not known what of val/x"),
        (
            ["trainer.validate_every=1", "validate.generate=4", "strategy=fsdp"],
            "validate.generate: weights in parts give no answers while they train",
        ),
        *(
            (
                [*DEVICE_JUDGE, "trainer.validate_every=1", "validate.generate=4", together],
                "validate.generate: a judge on the devices that train takes one device, strategy=auto",
            )
            for together in ("trainer.devices=2", "strategy=ddp")
        ),
        # what Hydra itself would make a page of
        (["objective.beta=0.1,0.2"], "objective.beta=0.1,0.2: several values need a sweep; add -m"),
        (["objective.beta=["], "cannot read objective.beta=[: no viable alternative at input '['"),
        (["seed=1", "data.path=/a&1/b", "objective=dpo"], "cannot read data.path=/a&1/b: "),
        (["seed=1", "data.path=/a&1/b"], """needs quotes: 'data.path="/a&1/b"'"""),
        (["-m", "seed=1,2", "data.path=/a&1/b,/c"], """needs quotes: 'data.path="…"'"""),
        (["-m", "objective.beta=interval(0,1)", "seed=1,2"], "cannot read objective.beta=interval(0,1): BasicSweeper"),
        (["data=hh_text", "data.path=a.json"], "data: has no images, which the objective needs"),
        (["data=hh_text", "data.path=a.json", "objective=mdpo"], "data: has no images, which the objective needs"),
        (["objective.beta"], "cannot read objective.beta: Error parsing override 'objective.beta'"),
        (["objective.beta=${nothing}"], "objective.beta: Interpolation key 'nothing' not found"),
        (["objective.beta=${oc.env:NOT_SET_ANYWHERE}"], "Environment variable 'NOT_SET_ANYWHERE' not found"),
        (["seed=${seed}"], "seed: Recursive interpolation detected"),
        (["hydra.run.dirr=x"], "hydra.run.dirr: hydra.run has no option 'dirr'; did you mean 'dir'?"),
        (["objective@foo=bpo"], "objective@foo"),
        # classes
        (["objective._target_=os.system"], "if you trust the package os, add plugins=[os]"),
        (["objective._target_=os.system", "plugins=[os]"], "objective._target_=os.system: is not a class of options"),
        (["objective._target_=nope.X", "plugins=[nope]"], "nope.X: cannot be imported (No module named 'nope')"),
        (["objective._target_=mmsafe.core.config.importlib.import_module"], "import_module: cannot be imported"),
        (["objective._target_=mmsafe.sweeps.job.Popen"], "Popen: is not a class of options"),
        (["objective._target_=mmsafe_evil.X"], "add plugins=[mmsafe_evil]"),
        (["objective._target_=.mmsafe.X"], "'.mmsafe.X': is not the name of a class"),
        (["--experimental-rerun", "config.pickle"], "--experimental-rerun: is not supported"),
        (["plugins=mine"], "plugins=mine: is no list of packages, such as plugins=[mine]"),
        # a group needs the name of an option
        *(
            ([f"{pair[0]}={pair[1]}"], pair[0])
            for pair in product(("objective", "trainer", "logger"), ("null", "3", "{a: 1}"))
        ),
        # added options that do not exist
        (["+sed=1"], "did you mean"),
        (["+objective={betta: 1}"], "did you mean"),
        # anywhere in a sweep, before job 0
        (["-m", "objective.beta=0.1,0.2,-3"], "objective.beta=-3: should be greater than 0"),
        (["--multirun", "objective.beta=-3,0.1"], "objective.beta=-3: should be greater than 0"),
        (["objective.beta=0.1,-3", "seed=1,2", "--multirun"], "objective.beta=-3: should be greater than 0"),
        (["-m", "seed=1", "objective.beta=choice(0.1,-3)"], "objective.beta=-3: should be greater than 0"),
        (["-m", "seed=range(0)"], "seed"),
        (["-m", "objective=sft,dpo", "objective.betta=0.1"], "objective=sft has no option 'betta'"),
        (["-m", "objective=dpo,bpoo"], "did you mean 'bpo'?"),
        (["-m", "objective.beta=interval(0,1)"], "objective.beta"),
        (["-m", "objective=glob(z*)"], "objective"),
        (["-m", "data=glob(*)"], "data.path is not set"),
        # sweeps that cannot be started as asked
        (["sweep=bta"], "sweep=bta: no such sweep; did you mean 'beta'?"),
        (["sweep=beta", "objective.beta=-1,2"], "objective.beta=-1: should be greater than 0"),
        (["sweep=paper_grid"], "data.path is not set"),
        (["launcher.jobs=2"], "launcher.jobs: says how the jobs of a sweep are started; add -m"),
        (["-m", "launcher.jobs=0"], "launcher.jobs=0: should be greater than or equal to 1"),
        (["-m", "launcher.jbs=2"], "launcher.jbs: launcher=local has no option 'jbs'; did you mean 'jobs'?"),
        (["-m", "launcher.jobs=1,2"], "launcher.jobs=1,2: is the same for all jobs of a sweep"),
        (["-m", "launcher.gpus=[0]", "trainer.devices=2"], "launcher.gpus: has 1 GPUs; a job wants 2"),
        (["-m", "trainer.num_nodes=2"], "trainer.num_nodes: launcher=local has one machine"),
    ],
    ids=words_of,
)
def test_message(words: list[str], message: str):
    assert message in refusal(*words)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["objective=sft"],
        ["++objective.beta=0.2"],
        ["objective.beta=0.2", "trainer.max_steps=2", "seed=3", "name=mine"],
        ["lengths.max_length=null", "logger=[csv,wandb]", "logger.wandb.group=x"],
        ["trainer.deterministic=warn", "trainer.deterministic=false"],
        ["hydra.run.dir=somewhere", "hydra.verbose=true"],
        ["data=mmsafe_po", "data.path=.", "data.keywords=[a,b]"],
        ["name=${oc.env:HOME}"],
        ["data=hh_text", "data.path=.", "objective=dpo"],
        ["-m", "objective=dpo,bpo", "seed=range(2)"],
        ["-m", "hydra.sweep.dir=x", "seed=1"],
        ["-m", "objective=dpo,bpo", "objective.beta=0.1"],
        ["-m", "objective=dpo,sft", "objective.beta=0.1"],
        ["-m", "objective=glob(*)"],
        *([f"model={name}", "model.path=some/folder", "model.dtype=bfloat16"] for name in CHECKPOINTS),
        ["--help", "no.such=option"],
        ["--cfg", "job", "no.such=option"],
        ["--hydra-help", "no.such=option"],
        ["--info", "config", "no.such=option"],
    ],
    ids=" ".join,
)
def test_what_is_right_is_left_alone(words: list[str]):
    accepted(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chekpoint=x"], "chekpoint: there is no option 'chekpoint'; did you mean 'checkpoint'?"),
        (["objective=bpo"], "objective"),
        (["trainer.max_steps=1"], "trainer.max_steps: there is no option 'trainer'; known: accelerator, against"),
        (["benchmark=microwrld"], "benchmark=microwrld: no such benchmark; did you mean 'microworld'?"),
        (["benchmark=mmsafe_po"], "data.path is not set"),
        (["evaluation.batch_size=0"], "evaluation.batch_size=0: should be greater than or equal to 1"),
    ],
    ids=words_of,
)
def test_evaluate_is_checked_against_its_own_options(words: list[str], message: str):
    assert message in refusal(*words, command="evaluate")


@pytest.mark.parametrize(
    ("command", "words", "option"),
    [
        ("train", ["data=trl", "data.path=gone"], "data.path"),
        ("train", ["-m", "data=trl", "data.path=here,gone"], "data.path"),
        ("train", ["data=trl", "data.path=here", "data.eval_path=gone"], "data.eval_path"),
        ("train", ["data=trl", "data.path=here", "data.image_dir=gone"], "data.image_dir"),
        ("train", ["data.categories=gone"], "data.categories"),
        ("train", ["data=mix", "+data@data.parts.a=trl", "data.parts.a.path=gone"], "data.parts.a.path"),
        ("train", ["benchmark=siuo", "benchmark.path=gone", "judge=keywords"], "benchmark.path"),
        ("train", ["model=llava_hf", "model.path=gone"], "model.path"),
        ("train", ["model=llava7b", "model.chat_template=gone"], "model.chat_template"),
        ("evaluate", ["checkpoint=gone"], "checkpoint"),
        ("evaluate", ["against=gone"], "against"),
        ("evaluate", ["generations=gone"], "generations"),
        ("evaluate", ["judgements=gone"], "judgements"),
        ("evaluate", ["benchmark=cheating", "data=microworld", "benchmark.harmless_image=gone"], "harmless_image"),
        ("evaluate", ["benchmark=mmsafe_po", "data.path=here", "judge=llama_guard", "judge.model=gone"], "judge.model"),
        ("export", ["checkpoint=gone", "out=new"], "checkpoint"),
        ("export", ["checkpoint=here", "base=./gone", "out=new"], "base"),
        ("compare", ["a=here", "b=gone"], "b"),
        ("agreement", ["a=here", "b=[here,gone]"], "b.1"),
        ("prepare", ["data=trl", "data.path=gone", "out=new"], "data.path"),
        ("build", ["conversations.path=gone", "out=new", *SERVED], "conversations.path"),
        (
            "build",
            ["conversations.path=here", "entities=rule", "entities.gazetteer=gone", "out=new", *SERVED],
            "gazetteer",
        ),
    ],
    ids=words_of,
)
def test_what_is_named_and_not_there_is_refused_before_anything_else_is_done(
    command: str, words: list[str], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    message = refusal(*words, command=command)
    assert re.search(rf"{re.escape(option)}=(\./)?gone: no such folder( or file)? in {tmp_path}", message)
    (tmp_path / "gone").mkdir()
    accepted(*words, command=command)


def test_a_missing_file_is_told_after_all_other_mistakes_and_only_where_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert "objective.beta=-1: should be" in refusal("-m", "data=trl", "data.path=gone", "objective.beta=1,-1")
    (tmp_path / "run").mkdir()
    unused = ["generations=run", "model=llava_hf", "model.path=gone"]  # the answers are there, no model is loaded
    accepted(*unused, command="evaluate")
    accepted("data=trl", "data.path=gone", command="doctor")  # asks about another machine
    accepted("model=llava_hf", "model.path=owner/name")  # of the hub


@pytest.mark.parametrize(
    ("command", "words", "option"),
    [
        ("train", ["data=trl", "data.path='~/x'"], "data.path"),
        ("train", ["data=trl", "data.path='~/x'", "data.image_dir='~/x'"], "data.image_dir"),
        ("train", ["benchmark=siuo", "benchmark.path='~/x'", "judge=keywords"], "benchmark.path"),
        ("train", ["model=llava_hf", "model.path='~/x'"], "model.path"),
        ("evaluate", ["checkpoint='~/x'"], "checkpoint"),
        ("prepare", ["data=trl", "data.path='~/x'", "out='~/new'"], "out"),
        ("export", ["checkpoint='~/x'", "out='~/new'"], "out"),
        ("build", ["conversations.path='~/x'", "out='~/new'", *SERVED], "out"),
    ],
)
def test_the_user_s_folder_in_every_path(
    command: str, words: list[str], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x").mkdir()
    accepted(*words, command=command)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        found: Any = typed(without_hydra(compose(command, words, return_hydra_config=True)), ROOTS[command])
    for name in option.split("."):
        found = getattr(found, name)
    assert Path(found).parent == tmp_path


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("hydra.run.dir=~/runs/a", "hydra.run.dir='HOME/runs/a'"),
        ("hydra.sweep.dir='~/runs'", "hydra.sweep.dir='HOME/runs'"),
        ("hydra.run.dir=./~/a", "hydra.run.dir=./~/a"),
        ("data.path=~/a b", "data.path='HOME/a b'"),
        ("data.path='~/a'", "data.path='~/a'"),
        ("~judge", "~judge"),
        ("name=a~/b", "name=a~/b"),
        ("data.path=/year=1/b", "data.path='/year=1/b'"),
        ("changes=[data.path=a,b]", "changes=['data.path=a',b]"),
        ("name='a=b'", "name='a=b'"),
        ("model={path: a=b}", "model={path: a=b}"),
    ],
)
def test_words_are_as_hydra_reads_them(word: str, expected: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home of/me")
    assert readable(word) == expected.replace("HOME", "/home of/me")


def test_a_user_s_own_option_is_found_and_checked_like_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_objective.py").write_text(
        "from mmsafe.objectives.dpo import DPO\nfrom mmsafe.core.options import Positive, options\n\n\n"
        "@options\nclass Louder(DPO):\n    volume: Positive = 2.0\n"
    )
    conf = tmp_path / "my_conf" / "objective" / "louder.yaml"
    conf.parent.mkdir(parents=True)
    conf.write_text("defaults:\n  - dpo\n  - _self_\n_target_: my_objective.Louder\nvolume: 3.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_objective", raising=False)
    own = ["--config-dir", str(tmp_path / "my_conf"), "plugins=[my_objective]", "objective=louder"]
    accepted(*own, "objective.volume=5", "objective.beta=0.2")
    accepted("-m", *own[:3], "objective=louder,bpo")
    assert "objective.volume=-1: should be greater than 0" in refusal(*own, "objective.volume=-1")
    assert "objective=louder has no option 'volum'; did you mean 'volume'?" in refusal(*own, "objective.volum=1")
    assert "did you mean 'louder'?" in refusal(*own[:3], "objective=loudr")
    assert "no such objective" in refusal("objective=louder")


@pytest.mark.filterwarnings("ignore:provider=")
def test_a_config_dir_that_does_not_exist(tmp_path: Path):
    assert "no-such-folder" in refusal("--config-dir", str(tmp_path / "no-such-folder"))


def test_hydra_is_left_as_it_was():
    refusal("objective=nope")
    accepted()
    assert not GlobalHydra.instance().is_initialized()


@given(st.text("ab=#&'\"\\ ()éü!;<", min_size=1))
def test_quoted_as_told_any_text_is_read(text: str):
    parser = OverridesParser.create()
    try:
        parser.parse_override(f"name={text}")
    except HydraException:
        (word,) = shlex.split(quoting(f"name={text}", parser).rpartition("needs quotes: ")[2])
        if word == 'name="…"':  # Hydra reads backslashes before a quote, and what begins with one, in its own way
            assert text[0] in "'\"" or "\\" in text
        else:
            assert parser.parse_override(word).value() == text


TOP_LEVEL = ["objective", "logger", "seed", "name", "lengths", "judge", "experiment", "hydra", "nothing", ""]
DOTTED = ["objective.beta", "objective.beta.x", "model.train", "model.path", "logger.wandb", "hydra.run.dir", "data@x"]
PLAIN = ["null", "3", "-1", "1.5", "true", "''", "[]", "{}", "[a,b]", "{a: 1}", "bpo", "csv", "nan", "1e999", "é", ""]
SWEEPS = ["a,b", "glob(*)", "range(0,2)", "range(0)", "interval(0,1)", "choice(1,2)"]
RESOLVED = ["${seed}", "${", "${now:}", "${hydra:runtime.cwd}"]
OVERRIDES = st.builds(
    "{}{}={}".format,
    st.sampled_from(["", "+", "++", "~"]),
    st.sampled_from(TOP_LEVEL + DOTTED),
    st.sampled_from(PLAIN + SWEEPS + RESOLVED),
)
BOUNDED = settings(
    deadline=None,
    max_examples=12,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # shrinking would take a minute
    suppress_health_check=list(HealthCheck),
)


def only_user_errors(words: list[str]) -> None:
    try:
        check("train", TrainConfig, words)
    except UserError as error:
        lines = str(error).splitlines()
    else:
        lines = ["accepted"]
    assert len(lines) == 1, words


@BOUNDED
@example(["="])
@example(["\n"])
@example(["@"])
@given(st.lists(st.text(max_size=12).filter(lambda text: not text.startswith("-")), max_size=3))
def test_garbage_is_refused_like_any_other_mistake(words: list[str]):
    only_user_errors(words)


@BOUNDED
@given(st.lists(OVERRIDES, min_size=1, max_size=2), st.booleans())
def test_overrides_put_together_at_random_are_refused_or_accepted(overrides: list[str], multirun: bool):
    only_user_errors(["-m", *overrides] if multirun else overrides)


def test_the_process_ends_with_status_2_and_one_line_and_leaves_nothing(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
):
    done = command("train", "objective=bppo", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "mmsafe.train: objective=bppo: no such objective; did you mean 'bpo'?\n"
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


WATCH = """
import sys
from mmsafe import {module}
sys.argv = ["{module}", *sys.argv[1:]]
try:
    {module}.main()
except SystemExit as end:
    print("status", end.code)
print("heavy", sorted({heavy} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("module", "words", "status"),
    [
        ("train", ["-m", "objective.beta=0.1,-1"], 2),
        ("evaluate", ["--help"], None),
        ("blind", ["data=trl", "data.path=gone"], 2),
    ],
)
def test_nothing_heavy_is_imported_for_a_mistake_or_for_help(
    module: str, words: list[str], status: int | None, tmp_path: Path
):
    script = WATCH.format(module=module, heavy=set(HEAVY))
    done = subprocess.run([sys.executable, "-c", script, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("heavy []\n")
    assert (f"status {status}\n" in done.stdout) == (status is not None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "preset", ["optuna", *(pytest.param(name, marks=pytest.mark.slow) for name in ("beta", "model_size", "datasets"))]
)
def test_a_preset_needs_no_m(preset: str):
    accepted(f"sweep={preset}", "launcher.jobs=2")
