"""Corruptions: what they do to an image, and that they do the same to it whenever and wherever it is asked for."""

import dataclasses
import inspect
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from mmsafe.core.errors import UserError
from mmsafe.data.corruption import CorruptedImage, Corruption, Crop, Mask, Noise
from mmsafe.data.example import Example, ImageSource, Turn, digest
from mmsafe.data.images import FileImage
from mmsafe.microworld.icons import IconImage
from mmsafe.microworld.tiny import TinyModel
from mmsafe.microworld.tiny_options import Architecture
from mmsafe.models.encoding import Encoder

PATCH = 8
SIZES = Architecture(
    image_size=24, patch_size=PATCH, vision_width=16, vision_layers=1, width=32, layers=1, heads=2, vocabulary=512
)
KNIFE, BREAD = IconImage("knife", 1, "red"), IconImage("bread", 1, "red")
EXAMPLE = Example(
    "1", (Turn("user", "What is this?", images=(0,)),), (KNIFE,), {"chosen": "A knife."}, {"thing": "knife"}
)
ALL = [Crop(), Noise(), Mask()]
every_corruption = pytest.mark.parametrize("corruption", ALL, ids=lambda corruption: type(corruption).__name__)


@pytest.fixture(scope="module", params=["pad", "crop"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return TinyModel(pretraining=None, architecture=SIZES, image_aspect_ratio=request.param).load().encoder()


def shown(source: ImageSource, corruption: Corruption) -> str:
    """Digest of what a corruption makes of an image, as a picture and as pixels."""
    image = CorruptedImage(source, corruption)
    return digest([image.load().size, image.load().tobytes().hex(), image.pixels(torch.ones(3, 24, 24), 8).tolist()])


def noisy(pixels: torch.Tensor, step: int) -> torch.Tensor:
    return CorruptedImage(KNIFE, Noise(step=step)).pixels(pixels, PATCH)


def patches(pixels: torch.Tensor) -> torch.Tensor:
    """Whole patches, `[rows, columns, values]`."""
    return pixels.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).permute(1, 2, 0, 3, 4).flatten(2)


def coordinates(width: int, height: int) -> Image.Image:
    """A picture whose colours say where they are."""
    image = Image.new("RGB", (width, height))
    image.putdata([(x % 256, y % 256, x // 256 + 16 * (y // 256)) for y in range(height) for x in range(width)])
    return image


@dataclasses.dataclass(frozen=True)
class Given:
    """An image source that is handed its picture."""

    image: Image.Image
    key: str = "given"
    name: str = "given"

    @property
    def shape(self) -> tuple[int, int]:
        return self.image.height, self.image.width

    def load(self) -> Image.Image:
        return self.image


@every_corruption
def test_an_example_keeps_everything_but_its_image_and_needs_none(corruption: Corruption):
    found = corruption.corrupted(EXAMPLE)
    assert dataclasses.replace(found, images=(KNIFE,)) == EXAMPLE
    assert found.images == (CorruptedImage(KNIFE, corruption),)
    assert found.prompt_key() != EXAMPLE.prompt_key()
    assert corruption.corrupted(EXAMPLE.blinded()) == EXAMPLE.blinded()


@every_corruption
def test_each_of_several_images_is_corrupted_as_it_is_alone(corruption: Corruption):
    both = dataclasses.replace(EXAMPLE, turns=(Turn("user", "Which?", (0, 0)),), images=(KNIFE, BREAD))
    assert corruption.corrupted(both).images == (CorruptedImage(KNIFE, corruption), CorruptedImage(BREAD, corruption))


@every_corruption
def test_an_image_is_corrupted_in_the_same_way_whenever_it_is_asked_for(corruption: Corruption):
    torch.manual_seed(1)
    first = shown(KNIFE, corruption)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = CorruptedImage(IconImage("knife", 1, "red"), type(corruption)())
    assert shown(again.source, again.corruption) == first
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"


@every_corruption
def test_shape_is_that_of_the_corrupted_picture(corruption: Corruption):
    for picture in (KNIFE, Given(coordinates(97, 31))):
        image = CorruptedImage(picture, corruption)
        assert image.shape == image.load().size[::-1]


@pytest.mark.slow
def test_another_process_corrupts_in_the_same_way():
    code = "\n".join(
        [
            "from __future__ import annotations",
            "import torch",
            "from mmsafe.data.corruption import CorruptedImage, Crop, Mask, Noise",
            "from mmsafe.data.example import digest",
            "from mmsafe.microworld.icons import IconImage",
            inspect.getsource(shown),
            f"print(*(shown({KNIFE!r}, corruption) for corruption in {ALL!r}))",
        ]
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [shown(KNIFE, corruption) for corruption in ALL]


@every_corruption
def test_images_and_seeds_are_corrupted_differently(corruption: Corruption):
    cases = [(Given(coordinates(200, 150), key), seed) for key in ("a", "b", "c") for seed in (0, 1, 2)]
    assert len({shown(source, dataclasses.replace(corruption, seed=seed)) for source, seed in cases}) == len(cases)


@every_corruption
def test_key_changes_with_image_kind_and_every_option(corruption: Corruption):
    others = {"seed": 1, "min_share": 0.02, "max_share": 0.5, "step": 7, "share": 0.1}
    names = [field.name for field in dataclasses.fields(corruption)]
    changed = [dataclasses.replace(corruption, **{name: others[name]}) for name in names]
    namesake = type("Other", (type(corruption),), {})()
    images = [CorruptedImage(KNIFE, other) for other in (corruption, namesake, *changed)]
    keys = {KNIFE.key, CorruptedImage(BREAD, corruption).key, *(image.key for image in images)}
    assert len(keys) == 2 + len(images)
    assert CorruptedImage(KNIFE, type(corruption)()).key == CorruptedImage(KNIFE, corruption).key


@every_corruption
def test_a_source_is_a_value_and_its_file_is_not_read_before_it_is_needed(corruption: Corruption, tmp_path: Path):
    image = CorruptedImage(FileImage(tmp_path / "none.png"), corruption)
    assert {image: 1}[CorruptedImage(FileImage(tmp_path / "none.png"), type(corruption)())] == 1
    assert pickle.loads(pickle.dumps(image)) == image
    assert image.name == f"{tmp_path / 'none.png'} ({type(corruption).__name__})"
    with pytest.raises(UserError, match=r"none\.png: no such image file"):
        image.load()


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 10**6))
def test_a_crop_is_a_part_of_the_picture_with_its_aspect_ratio_and_a_share_in_range(width: int, height: int, seed: int):
    picture = coordinates(width, height)
    part = CorruptedImage(Given(picture), Crop(seed=seed, min_share=0.05, max_share=0.3)).load()
    # rounding moves each side by half a pixel, and at least one pixel is kept
    for side, whole in zip(part.size, picture.size, strict=True):
        assert math.sqrt(0.05) * whole - 0.5 <= side <= max(1, math.sqrt(0.3) * whole + 0.5)
    assert abs(part.width / width - part.height / height) <= 1 / min(width, height)
    red, green, blue = part.getpixel((0, 0))  # type: ignore[misc]
    left, top = red + 256 * (blue % 16), green + 256 * (blue // 16)
    assert part.tobytes() == picture.crop((left, top, left + part.width, top + part.height)).tobytes()


def test_crops_vary_in_share_and_reach_the_whole_picture():
    picture = coordinates(200, 200)
    parts = [CorruptedImage(Given(picture), Crop(seed=seed)).load() for seed in range(300)]
    shares = [part.width * part.height / 200**2 for part in parts]
    assert min(shares) < 0.03
    assert max(shares) > 0.18
    assert sum(shares) / 300 == pytest.approx(0.105, abs=0.015)  # uniform from 0.01 to 0.2
    corners = [part.getpixel((0, 0))[:2] for part in parts]  # type: ignore[index]
    assert min(map(sum, corners)) < 20
    assert max(map(sum, corners)) > 230


@pytest.mark.parametrize(
    ("step", "signal"),
    [
        (0, 1.0),
        # ᾱ = Π(1 - β) ≈ exp(-Σβ), Σβ = 10⁻⁵ n + 0.00499 Σσ(u). The first half of the steps has
        # Σσ ≈ 1000/12 · [ln(1 + e^u)] from -6 to 0 = 1000/12 · (0.693 - 0.0025) = 57.6, all have 500 by symmetry.
        (499, math.exp(-(0.005 + 0.00499 * 57.6) / 2)),
        (999, math.exp(-(0.01 + 0.00499 * 500) / 2)),
    ],
)
def test_noise_has_the_statistics_of_forward_diffusion(step: int, signal: float):
    found = noisy(torch.ones(3, 336, 336), step)
    assert found.mean().item() == pytest.approx(signal, abs=5e-3)
    assert found.var().item() == pytest.approx(1 - signal**2, abs=1e-2)


def test_noise_grows_from_nothing_and_keeps_the_variance_of_a_normalised_image():
    image = torch.randn(3, 96, 96, generator=torch.Generator().manual_seed(0))
    # β at the first step is 10⁻⁵ + 0.00499 / (1 + e⁶)
    assert (noisy(image, 0) - image).std().item() == pytest.approx(math.sqrt(2.234e-5), rel=0.02)
    steps = [noisy(image, step) for step in (100, 300, 500, 700, 900)]
    distances = [(found - image).square().mean().item() for found in steps]
    assert distances == sorted(distances)
    assert all(found.var().item() == pytest.approx(1, abs=0.05) for found in steps)


@given(st.floats(0, 1), st.integers(8, 40), st.integers(8, 40))
def test_a_mask_blanks_its_share_of_whole_patches(share: float, height: int, width: int):
    pixels = torch.rand(3, height, width) + 1
    found = CorruptedImage(KNIFE, Mask(share=share)).pixels(pixels, PATCH)
    assert pixels.all(), "the pixels that were given are left alone"
    blank = (patches(found) == 0).all(-1)
    assert blank.sum() == round(share * blank.numel())
    assert torch.equal(patches(found)[~blank], patches(pixels)[~blank])
    rows, columns = height // PATCH * PATCH, width // PATCH * PATCH
    assert torch.equal(found[:, rows:], pixels[:, rows:])
    assert torch.equal(found[:, :, columns:], pixels[:, :, columns:])


@every_corruption
@pytest.mark.parametrize(("size", "mode"), [((1, 1), "RGB"), ((3, 200), "L"), ((201, 77), "RGB")], ids=str)
def test_the_encoder_takes_any_size_and_grey(
    encoder: Encoder, tmp_path: Path, corruption: Corruption, size: tuple[int, int], mode: str
):
    coordinates(*size).convert(mode).save(tmp_path / "x.png")
    source = FileImage(tmp_path / "x.png")
    pixels = encoder.pixels(CorruptedImage(source, corruption))
    assert pixels.shape == (3, 24, 24)
    assert pixels.dtype == torch.float32
    assert pixels.isfinite().all()
    assert torch.equal(pixels, encoder.pixels(CorruptedImage(FileImage(tmp_path / "x.png"), corruption)))


def test_the_encoder_corrupts_the_picture_before_and_the_pixels_after_preprocessing(encoder: Encoder):
    plain = encoder.pixels(KNIFE)
    assert torch.equal(encoder.pixels(CorruptedImage(KNIFE, Corruption())), plain)
    crop, mask = CorruptedImage(KNIFE, Crop()), CorruptedImage(KNIFE, Mask(share=0.5))
    assert torch.equal(encoder.pixels(crop), encoder.pixels(Given(crop.load())))
    assert torch.equal(encoder.pixels(mask), mask.pixels(plain, PATCH))
    assert (patches(encoder.pixels(mask)) == 0).all(-1).sum() == round(0.5 * encoder.image_tokens)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Crop, {"min_share": 0}),
        (Crop, {"max_share": 1.1}),
        (Crop, {"min_share": 0.3, "max_share": 0.2}),
        (Noise, {"step": -1}),
        (Noise, {"step": 1000}),
        (Mask, {"share": 1.5}),
    ],
)
def test_values_out_of_range_are_refused(kind: type[Corruption], values: dict[str, Any]):
    with pytest.raises(ValidationError, match="|".join(values)):
        kind(**values)
