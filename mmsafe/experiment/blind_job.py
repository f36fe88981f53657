"""`mmsafe.blind`: generate the blind responses of a data set, and nothing else."""

import logging
from pathlib import Path
from typing import Any

from mmsafe.core.errors import UserError
from mmsafe.core.files import write_rows
from mmsafe.core.ranks import is_first
from mmsafe.data.data_source import counted, need_images
from mmsafe.data.example import fingerprint
from mmsafe.evaluation.third_responses import tells
from mmsafe.experiment.blind_config import BlindConfig
from mmsafe.generation.blinding import BLIND, unmatched, with_generated_responses
from mmsafe.generation.served import ServedGeneration
from mmsafe.models.loading import on_device, own_device
from mmsafe.runs.run_context import RunContext
from mmsafe.runs.run_folder import RunFolder
from mmsafe.scoring.lengths import fitting, tell

log = logging.getLogger(__name__)


def blind(config: BlindConfig, run: RunContext) -> Path:
    """Make the missing blind responses and write them all to `blind.jsonl`; returns its path."""
    if "corrupted" in config.generation.views:
        raise UserError("generation: a corrupted view needs a corruption, which mmsafe.train has, not this command")
    own_device(config.accelerator)  # refused before anything is read or loaded
    folder = RunFolder(run.folder, run.cfg)
    folder.claim()
    loaded = counted(config.data.prompts())
    need_images(loaded.examples, "a blind response")
    served = config.generation if isinstance(config.generation, ServedGeneration) else None
    vlm: Any = None if served else on_device(config.model.load(), config.accelerator)  # the endpoint's own may be large
    encoder = config.model.encoder() if served else vlm.encoder()
    prompts, lengths = fitting(loaded.examples, encoder, (), config.lengths)
    tell(lengths, config.lengths)
    tell_right = tells(config.judge, config.generation, vlm)
    examples = with_generated_responses(vlm, prompts, {BLIND}, config.generation, tells=tell_right)
    lengths |= {} if tell_right is None else {"unmatched": unmatched(prompts, examples)}
    path = folder.path / "blind.jsonl"
    if is_first():
        write_rows(path, [{"id": example.id, BLIND: example.responses[BLIND]} for example in examples])
    model = served.model if served else vlm.fingerprint()
    folder.note(model=model, data=fingerprint(examples), dropped=loaded.dropped, lengths=lengths)
    log.info("wrote %d blind responses to %s", len(examples), path)
    return path
