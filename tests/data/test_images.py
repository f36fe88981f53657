import os
import pickle
import struct
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mmsafe.core.errors import UserError
from mmsafe.data.images import FileImage, check_images, find_image
from mmsafe.data.tables import StoredImage

REAL_NAMES = [
    "photo.jpg",
    "tbn:ANd9GcS_x-1(2)",  # no extension, as about 40 % of the real names
    "Stra%C3%9Fe_%28Berlin%29.png",
    "500px-A%2C_B.svg.png",
    "50%.jpg",
]


def write(path: Path, image: Image.Image | None = None, **options: object) -> FileImage:
    path.parent.mkdir(parents=True, exist_ok=True)
    options.setdefault("format", "PNG")
    (image or Image.new("RGB", (4, 3), "red")).save(path, **options)
    return FileImage(path)


def stored(content: bytes) -> StoredImage:
    return StoredImage("x.jpg", pa.chunked_array([[content]]), 0)


def noise(size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.effect_noise(size, 80).convert("RGB")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    file_format = {"PA": "TIFF", "CMYK": "JPEG", "YCbCr": "TIFF"}.get(mode, "PNG")
    plain = Image.new({"LA": "L", "PA": "P"}.get(mode, "RGB"), (4, 3))
    image = Image.new(mode, (4, 3), 1000) if mode == "I;16" else plain.convert(mode)
    source = write(tmp_path / "x", image, format=file_format)
    with Image.open(source.path) as written:
        assert written.mode == mode
    loaded = source.load()
    assert (loaded.mode, loaded.size) == ("RGB", (4, 3))
    loaded.getpixel((0, 0))  # decoded: the file is closed by now


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    image = Image.new("I;16", (3, 1))
    for x, value in enumerate((0, 100 * 257, 65535)):
        image.putpixel((x, 0), value)
    for file_format in ("PNG", "TIFF"):
        loaded = write(tmp_path / file_format, image, format=file_format).load()
        assert [loaded.getpixel((x, 0))[0] for x in range(3)] == [0, 100, 255]


@pytest.mark.parametrize(("mode", "value"), [("I", 70000), ("I", -1), ("F", 0.5)])
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, mode: str, value: float) -> None:
    source = write(tmp_path / "x.tif", Image.new(mode, (2, 2), value), format="TIFF")
    with pytest.raises(UserError, match=r"x\.tif.*(beyond 16 bits|unknown range)"):
        source.load()


@pytest.mark.filterwarnings("error")
def test_palette_with_transparency_gives_no_warning(tmp_path: Path) -> None:
    image = Image.new("P", (4, 3))
    image.putpalette([255, 0, 0, 0, 255, 0])
    source = write(tmp_path / "x.png", image, transparency=bytes([0, 128]))
    assert source.load().getpixel((0, 0)) == (255, 0, 0)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2), "blue")
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: the top left pixel goes to the top right
    loaded = write(tmp_path / "x.png", image, exif=exif).load()
    assert loaded.size == (2, 4)
    assert loaded.getpixel((1, 0)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("kind", ["JPEG", "MPO", "WEBP", "PNG", "PNG, EXIF last", "TIFF", "GIF", "ICO"])
def test_shape_is_that_of_the_decoded_picture(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = write(tmp_path / "x", Image.new("RGB", (48, 32)), format=kind.partition(",")[0], exif=exif)
    if "last" in kind:
        data = image.data()
        at = data.index(b"eXIf") - 4
        end = at + 12 + int.from_bytes(data[at : at + 4])
        image.path.write_bytes(data[:at] + data[end:-12] + data[at:end] + data[-12:])
    assert image.shape == image.load().size[::-1] == stored(image.data()).shape


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_shape_is_read_without_a_pixel(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = write(tmp_path / "x", Image.new("RGB", (48, 32)), format=kind)
    monkeypatch.setattr(FileImage, "load", None)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    assert image.shape == (32, 48)


def test_shape_of_what_is_no_image_is_refused_as_the_image_is(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"%PDF-1.7")
    for image in (FileImage(tmp_path / "x.jpg"), FileImage(tmp_path / "none"), stored(b"")):
        errors = []
        for ask in (lambda image=image: image.shape, image.load):
            with pytest.raises(UserError) as caught:
                ask()
            errors.append(str(caught.value))
        assert errors[0] == errors[1]


def test_key_is_the_content_and_name_the_path(tmp_path: Path) -> None:
    one, same, other = write(tmp_path / "a"), write(tmp_path / "b"), write(tmp_path / "c", noise())
    assert one.key == same.key != other.key
    assert len(one.key) == 64
    assert one.name == str(tmp_path / "a")
    assert one == FileImage(tmp_path / "a")
    assert pickle.loads(pickle.dumps(one)).key == one.key


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP"])
@pytest.mark.parametrize("kept", [4, 2000])
def test_truncated(tmp_path: Path, file_format: str, kept: int) -> None:
    path = write(tmp_path / "cut", noise(), format=file_format).path
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"cut: .*(cannot be decoded|is not an image)") as caught:
        FileImage(path).load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "an empty file; get the image again"),
        (b"\n", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer .*git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "HEIC, .*convert it to PNG or JPEG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(99), "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(99), "AVIF, damaged"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp41" + bytes(99), "a video"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b'<?xml version="1.0"?>\n<!-- x -->\n<svg xmlns="http://www.w3.org/2000/svg">', "SVG, a drawing"),
        (b"\xef\xbb\xbf<!DOCTYPE html><html><body>404", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page, or what else a server said"),
        (b'{"error": "not found"}', "text, such as the error message of a server"),
        (b"iVBORw0KGgoAAAANSUhEUg" * 50, "base64 text; decode it"),
        (b"PK\x03\x04", "an archive"),
        (b"%PDF-1.7\n%\xe2", "PDF"),
    ],
)
def test_what_is_no_image_is_called_by_its_name(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    for image in (FileImage(tmp_path / "x.jpg"), *([stored(content)] if content else [])):
        with pytest.raises(UserError, match=rf"x\.jpg: is not an image that can be read here, but {what}"):
            image.check(decode=False)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    source = FileImage(tmp_path / "none.png")
    with pytest.raises(UserError, match=r"none\.png: no such image file"):
        source.load()
    with pytest.raises(UserError, match=r"none\.png: no such image file"):
        _ = source.key
    with pytest.raises(UserError, match="is not a file"):
        FileImage(tmp_path).load()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [3000, 1000])  # Pillow itself warns at the first and refuses at the second
@pytest.mark.parametrize("decode", [True, False])
def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, decode: bool) -> None:
    source = write(tmp_path / "bomb.png", noise((64, 64)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UserError, match=r"bomb\.png: the image is too large"):
        source.check(decode)


@pytest.mark.parametrize("size", [(65000, 1), (1, 65000), (20000, 1), (9460, 60), (201, 1), (1, 201)])
@pytest.mark.parametrize("decode", [True, False])
def test_an_image_is_refused_by_what_padding_and_scaling_make_of_it(
    tmp_path: Path, size: tuple[int, int], decode: bool
) -> None:
    """Pillow's limit is 89,478,485 pixels: a square of 9459 pixels a side."""
    source = write(tmp_path / "long.png", Image.new("1", size))
    for image in (source, stored(source.data())):
        with pytest.raises(
            UserError, match=r"(long\.png|x\.jpg): the image is too (large to decode|long and thin): \d+ x \d+"
        ):
            image.check(decode)


@pytest.mark.parametrize("size", [(9459, 60), (200, 1), (1, 200), (1, 1)])
def test_the_largest_that_are_read(tmp_path: Path, size: tuple[int, int]) -> None:
    assert write(tmp_path / "x.png", Image.new("1", size)).load().size == size


def test_the_image_in_an_icon_may_be_larger_than_its_header_says(tmp_path: Path) -> None:
    png = write(tmp_path / "long.png", Image.new("L", (20000, 1))).data()
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 8, len(png), 22)
    icon = stored(struct.pack("<HHH", 0, 1, 1) + entry + png)
    with pytest.warns(UserWarning, match="not the expected size"), pytest.raises(UserError, match="20000 x 1 pixels"):
        icon.load()


def test_a_png_whose_text_unpacks_to_more_than_a_text_should(tmp_path: Path) -> None:
    text = PngInfo()
    text.add_text("k", "a" * 2**24, zip=True)
    with pytest.raises(UserError, match=r"bomb\.png: the image cannot be decoded .*MAX_TEXT_CHUNK"):
        write(tmp_path / "bomb.png", pnginfo=text).load()


def test_eps_would_start_ghostscript(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.png: .* but EPS, a program that Ghostscript would have to run"):
        write(tmp_path / "x.png", format="EPS").load()


@pytest.mark.parametrize(
    ("name", "on_disk"),
    [
        *((name, name) for name in REAL_NAMES),
        ("Stra%C3%9Fe_%28Berlin%29.png", "Straße_(Berlin).png"),
        ("Straße_(Berlin).png", "Stra%C3%9Fe_%28Berlin%29.png"),
        ("Straße_(Berlin).png", "Stra%C3%9Fe_(Berlin).png"),
        ("tbn:ANd9Gc(1)", "tbn%3AANd9Gc%281%29"),
        ("tbn:ANd9Gc(1)", "tbn:ANd9Gc%281%29"),
        ("Stra%c3%9fe.png", "Stra%C3%9Fe.png"),
        ("50%.jpg", "50%25.jpg"),
        ("a%20b.png", "a%2520b.png"),
        ("sub/a%20b.png", "sub/a b.png"),
    ],
)
def test_names_are_found_as_written_and_in_other_encodings(tmp_path: Path, name: str, on_disk: str) -> None:
    write(tmp_path / on_disk)
    assert find_image(tmp_path, name) == tmp_path / on_disk


def test_the_exact_name_wins(tmp_path: Path) -> None:
    write(tmp_path / "a b")
    write(tmp_path / "a%20b")
    assert find_image(tmp_path, "a%20b") == tmp_path / "a%20b"


@pytest.mark.parametrize("name", ["none.png", "", ".", "sub", "a\0b", "a%00b", "\ud800", "x" * 1000, "%" * 200])
def test_find_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(UserError, match=r"no image|no possible file name"):
        find_image(tmp_path, name)


@pytest.mark.parametrize(
    "name", ["../secret.png", "..%2Fsecret.png", "a/../../secret.png", "link.png", "folder/secret.png"]
)
def test_find_stays_in_the_folder(tmp_path: Path, name: str) -> None:
    write(tmp_path / "secret.png")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "folder").symlink_to(tmp_path)
    linked = name in ("link.png", "folder/secret.png")  # as in a Hugging Face cache
    advice = "symbolic link.* leads out of the image folder .*hf download --local-dir"
    with pytest.raises(UserError, match=advice if linked else "leads out of the image folder"):
        find_image(folder, name)


def test_absolute_names_are_found_in_the_folder_only(tmp_path: Path) -> None:
    write(tmp_path / "out.png")
    folder = tmp_path / "images"
    write(folder / "a b.png")
    for name in (str(folder / "a b.png"), str(folder / "a%20b.png"), str(folder / "a b.png").replace("/", "%2F")):
        assert find_image(folder, name) == folder / "a b.png"
    (tmp_path / "linked").symlink_to(folder)
    assert find_image(tmp_path / "linked", str(folder / "a b.png")) == tmp_path / "linked" / "a b.png"
    (folder / "b.png").symlink_to("a b.png")
    assert find_image(tmp_path / "linked", "b.png") == tmp_path / "linked" / "b.png"
    for name in (str(tmp_path / "out.png"), str(tmp_path / "out.png").replace("/", "%2F"), "/etc/hostname"):
        with pytest.raises(UserError, match="leads out of the image folder"):
            find_image(folder, name)


def test_a_name_may_begin_with_the_folder_s_own_and_other_folders_are_looked_in_after_it(tmp_path: Path) -> None:
    write(tmp_path / "images/a.png")
    write(tmp_path / "other/b.png")
    assert find_image(tmp_path / "images", "images/a.png") == tmp_path / "images/a.png"
    assert find_image(tmp_path / "images", "b.png", also=[tmp_path / "other"]) == tmp_path / "other/b.png"
    with pytest.raises(UserError, match=r"no image 'other/b\.png' in .*images: get the image"):
        find_image(tmp_path / "images", "other/b.png")  # beside the folder, not in it


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data:image/png;base64,iVBORw0K" + "Gg" * 100_000, "as a data URI; write it into a file"),
        ("/9j/4AAQSkZJRg" + "Ab/+" * 100_000 + "A=", "as base64 text; write it into a file"),
        ("https://example.org/a.png", "is a web address, of which nothing is fetched"),
        ("a sentence " * 500, r"no image 'a sentence .*: get the image"),
        ("../" * 2000 + "a.png", "leads out of the image folder"),
    ],
)
def test_what_is_no_name_is_quoted_short_and_told(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        find_image(tmp_path, name)
    assert len(str(caught.value)) < 500


def test_check_images_reports_each_file_once(tmp_path: Path) -> None:
    good, missing = write(tmp_path / "good", noise()), FileImage(tmp_path / "missing")
    cut = FileImage(tmp_path / "cut")
    cut.path.write_bytes(good.path.read_bytes()[:-2000])
    done: list[int] = []
    errors = check_images([good, cut, missing, good, FileImage(cut.path)], True, done.append)
    assert list(errors) == [cut, missing]
    assert str(cut.path) in str(errors[cut])
    assert done == [1, 1, 1]
    assert list(check_images([good, cut, missing], False)) == [missing]  # the header of the cut file is whole
    assert check_images([], True) == {}


def test_many_formats_at_once_in_threads(tmp_path: Path) -> None:
    formats = ["WEBP", "TIFF", "JPEG", "PNG", "GIF", "BMP"]
    sources = [write(tmp_path / f"{i}", format=formats[i % len(formats)]) for i in range(60)]
    assert check_images(sources, True) == {}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    source = write(tmp_path / "x.png")
    source.path.chmod(0)
    with pytest.raises(UserError, match=r"x\.png.*Permission denied"):
        source.load()
