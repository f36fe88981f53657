"""From a checkpoint in either format to a folder in either format."""

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the client that the hub library uses

from mmsafe.core.config import recorded
from mmsafe.core.errors import UserError
from mmsafe.core.run_record import about_run, run_options
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.models.adapters import add_lora, merge
from mmsafe.models.checkpoints import CheckpointError
from mmsafe.models.formats import Format, format_of
from mmsafe.models.locate import base_of, is_adapter, located
from mmsafe.models.model_source import Pretrained
from mmsafe.models.original.save import save_original
from mmsafe.models.pretrained import in_one_line
from mmsafe.models.vlm import VLM
from mmsafe.reporting.model_card import model_card
from mmsafe.training.checkpoint_files import PREFIX, trained_weights
from mmsafe.training.checkpointing import current_checkpoint

log = logging.getLogger(__name__)
DTYPES: dict[torch.dtype, Literal["float32", "bfloat16", "float16"]] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


def export(checkpoint: str, out: str, form: Format, *, base: str | None = None, allow_pickle: bool = False) -> Path:
    """Write `checkpoint`, a run folder, a model folder or a hub name, to `out`; weights keep their dtype.

    A LoRA adapter is merged into `base`, or where that is None into the model that it names. Raises `UserError` where
    the checkpoint is of no family that is known, where `form` cannot hold it, or where `out` is not empty.
    """
    target = Path(out).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"out={out}: is there already and not empty; name a new folder")
    try:
        run = Path(checkpoint).expanduser()
        if not (run / "model").exists() and current_checkpoint(run):  # training can go on from it
            _write(consolidated(run), target, form, run, run)
            return target
        folder = located(checkpoint, allow_pickle=allow_pickle)
        whole = folder
        if is_adapter(folder):
            whole = base_of(folder, base, allow_pickle=allow_pickle)
        elif base is not None:
            raise CheckpointError("is a whole model; base is for LoRA adapters")
        with in_one_line(f"checkpoint={checkpoint}"):
            vlm = _loaded(folder, whole, allow_pickle=allow_pickle)
        _write(vlm, target, form, whole, run)
    except CheckpointError as error:
        raise UserError(_in_our_words(f"checkpoint={checkpoint}: {error}")) from error
    except UserError as error:
        raise UserError(_in_our_words(str(error))) from error
    except OSError as error:
        raise UserError(f"out={out}: cannot be written: {error.strerror or error}") from error
    log.info("wrote %s in %s format", target, {"hf": "Hugging Face's", "original": "LLaVA's original"}[form])
    return target


def _in_our_words(message: str) -> str:
    """What the loader says, which knows the options of this command by other names."""
    message = message.replace("model.path=", "checkpoint=")
    return message.replace("model.allow_pickle", "allow_pickle").replace("model.base", "base")


def _loaded(folder: Path, whole: Path, *, allow_pickle: bool) -> VLM:
    """The checkpoint in `folder`; type and preprocessing are those of the `whole` model in it, or under it."""
    dtype = format_of(whole, allow_pickle=allow_pickle)[1].dtype
    if dtype not in DTYPES:
        raise CheckpointError(f"its weights are {dtype}; only {', '.join(DTYPES.values())} can be exported")
    source = Pretrained(
        path=str(folder),
        base=None if whole == folder else str(whole),
        allow_pickle=allow_pickle,
        dtype=DTYPES[dtype],
        image_aspect_ratio=None,
        chat_template=None if whole == folder else run_options(folder, "model").get("chat_template"),
    )
    return source.load()


def _write(vlm: VLM, target: Path, form: Format, source: Path, run: Path) -> None:
    """Fill a folder beside `target` and rename it: a half-written one never has that name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        if form == "original":
            save_original(vlm, unfinished, beside=source)
        else:
            vlm.save(unfinished)
            if (source / "tokenizer.model").is_file():  # for the way back; `transformers` drops it
                shutil.copyfile(source / "tokenizer.model", unfinished / "tokenizer.model")
        (unfinished / "README.md").write_text(model_card(run, target.name), encoding="utf-8")
        unfinished.chmod(0o755)
        unfinished.replace(target)  # over an empty folder, or over nothing
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def push(name: str, folder: Path | None = None) -> None:
    """Make the hub's repository `name`, a private one, if it is not there, and upload all of `folder`, if there is one.

    Raises `UserError` where that fails.
    """
    try:
        if not (token := os.environ.get("HF_TOKEN")):
            raise ValueError("there is no token")
        HfApi(token=token).create_repo(name, private=True, exist_ok=True)
        if folder is not None:
            message = "Model from mmsafe.export"
            HfApi(token=token).upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        advice = "set HF_TOKEN to a token that may write there"
        advice += f"; then `hf upload {name} {folder}`" if folder else ""
        raise UserError(f"push={name}: {' '.join(str(error).split())[:300]}; {advice}") from error


def consolidated(folder: Path) -> VLM:
    """The model of the last checkpoint in the run folder, its adapter merged; raises `UserError` if it does not fit."""
    path = current_checkpoint(folder)
    assert path is not None
    if not (about := about_run(folder)):
        raise UserError(f"{folder}: has no run.json, which says what model its checkpoint is of; name a run folder")
    config = recorded({**about["config"], "plan": None}, TrainConfig)
    vlm = config.model.load()
    add_lora(vlm, config.peft)
    trained = {name.removeprefix(PREFIX): tensor for name, tensor in trained_weights(path).items()}
    incompatible: Any = vlm.model.load_state_dict(trained, strict=False)
    wanted = {name for name, parameter in vlm.model.named_parameters() if parameter.requires_grad}
    if incompatible.unexpected_keys or wanted - trained.keys():
        raise UserError(f"{path}: does not fit the model that the run was started with; was that changed since?")
    merge(vlm)
    return vlm
