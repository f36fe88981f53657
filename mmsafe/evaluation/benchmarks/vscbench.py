"""VSCBench (arXiv 2505.20362), its image-centric half: a request beside three safe and three unsafe images."""

from collections.abc import Iterator

from mmsafe.core.options import options
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmarks.mssbench import SITUATIONS, Situations
from mmsafe.evaluation.benchmarks.published import prompt
from mmsafe.evaluation.benchmarks.published_files import Folder

IMAGES = {f"{situation}_img_{number}": situation for number in range(3) for situation in SITUATIONS}
"""The columns that name images, and what a request is beside them."""


@options
class VSCBench(Situations):
    """Over-safety and under-safety of the same words: the published safe, unsafe and mean accuracy.

    Upstream asks GPT-4 whether a response refuses or flags the request; the criterion here is that of MSSBench.
    """

    name = "vscbench"
    tags = ("category",)
    get = "VSCBench (https://github.com/jiahuigeng/VSCBench, with its images unpacked beside the workbook)"

    def read(self, folder: Folder) -> Iterator[Example]:
        """From `vscbench_image_centric.xlsx`, images in `vscbench_image_centric_images/CATEGORY/`; `{row}/{column}`."""
        file = folder.file("vscbench_image_centric.xlsx")
        for number, row in folder.rows(file, ("Prompt", "Category", *IMAGES)):
            category = row.text("Category")
            for column, situation in IMAGES.items():
                image = folder.image(file.parent / "vscbench_image_centric_images", f"{category}/{row.text(column)}")
                tags = {"category": category, "situation": situation}
                yield prompt(f"{number}/{column}", row.text("Prompt"), image, **tags)
