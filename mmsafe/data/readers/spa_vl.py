"""SPA-VL, safety preferences in three levels of harm classes (arXiv 2406.12030): parquet files with their images."""

from mmsafe.core.options import options
from mmsafe.data.row_source import RowSource


@options
class SPAVL(RowSource):
    """Columns `image`, `question` and, in `train` and `validation`, `chosen` and `rejected`.

    `validation` and the test splits also have `class1` to `class3`, from domain to subcategory; by the set's card,
    `train` has none. Which classes there are is read from the rows. The test splits, `harm` and `help`, are prompts
    alone: they can be evaluated on, not trained on. JSON exports of the same columns name their images' files.
    """

    get = "SPA-VL (https://huggingface.co/datasets/sqrti/SPA-VL) and set data.path to its folder"
    tag_columns = ("class1", "class2", "class3")
