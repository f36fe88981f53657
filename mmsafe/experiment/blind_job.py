"""`mmsafe.blind`: generate the blind responses of a data set, and nothing else."""

import logging
from pathlib import Path

from mmsafe.core.errors import UserError
from mmsafe.core.files import write_rows
from mmsafe.core.ranks import is_first
from mmsafe.data.data_source import counted, need_images
from mmsafe.data.example import fingerprint
from mmsafe.evaluation.third_responses import taken_by
from mmsafe.experiment.blind_config import BlindConfig
from mmsafe.generation.blinding import BLIND, unmatched, with_generated_responses
from mmsafe.models.loading import on_device, own_device
from mmsafe.runs.run_context import RunContext
from mmsafe.runs.run_folder import RunFolder
from mmsafe.scoring.lengths import fitting, tell

log = logging.getLogger(__name__)


def blind(config: BlindConfig, run: RunContext) -> Path:
    """Make the missing blind responses and write them all to `blind.jsonl`; returns its path."""
    if config.generation.image_view == "corrupted":
        raise UserError("generation.image_view=corrupted: this command has no corruption; mmsafe.train has")
    own_device(config.accelerator)  # refused before anything is read or loaded
    folder = RunFolder(run.folder, run.cfg)
    folder.claim()
    loaded = counted(config.data.prompts())
    need_images(loaded.examples, "a blind response")
    vlm = on_device(config.model.load(), config.accelerator)
    prompts, lengths = fitting(loaded.examples, vlm.encoder(), (), config.lengths)
    tell(lengths, config.lengths)
    takes = taken_by(config.judge, config.generation)
    examples = with_generated_responses(vlm, prompts, {BLIND}, config.generation, takes=takes)
    lengths |= {} if takes is None else {"unmatched": unmatched(prompts, examples)}
    path = folder.path / "blind.jsonl"
    if is_first():
        write_rows(path, [{"id": example.id, BLIND: example.responses[BLIND]} for example in examples])
    folder.note(model=vlm.fingerprint(), data=fingerprint(examples), dropped=loaded.dropped, lengths=lengths)
    log.info("wrote %d blind responses to %s", len(examples), path)
    return path
