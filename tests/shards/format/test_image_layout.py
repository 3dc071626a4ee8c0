"""The image layout: what is written can be read by its table, and a table that is not its tar's is refused."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from kkanji.data.codec import decode, decode_into, encode
from shards import CorruptShard, InputError, Shard
from shards.format.image_layout import (
    MAX_IMAGES,
    TABLE_TYPE,
    EncodedImages,
    image_table,
    read_samples,
    read_table,
    table_problem,
    write_image_shard,
    write_table,
)
from shards.format.ustar import read_archive
from shards.store.store import open_store
from tests.faults import hostile
from tests.shards.kinds import drawn, encoded

BLOCKS = [drawn(3), drawn(1, 1), drawn(5, 2)]
Written = tuple[Path, Shard]


@pytest.fixture(scope="module", params=["png", "jpg"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    path = tmp_path_factory.mktemp("images") / "train-00000.tar"
    return path, write_image_shard(path, encoded(BLOCKS, request.param), request.param)


def test_the_table_tells_where_each_image_is_and_what(written: Written) -> None:
    path, shard = written
    table, data = read_table(open_store(path.parent), shard), path.read_bytes()
    assert np.array_equal(table["label"], np.concatenate([block.labels for block in BLOCKS]))
    assert np.array_equal(table["source"], np.concatenate([block.sources for block in BLOCKS]))
    images = [decode(data[row["offset"] : row["offset"] + row["bytes"]]) for row in table]
    difference = np.stack(images).astype(int) - np.concatenate([block.images for block in BLOCKS])
    assert np.abs(difference).mean() < 3 if b".jpg" in data else not difference.any()


def test_blocks_cover_the_tar_but_for_its_end(written: Written) -> None:
    path, shard = written
    assert [block.samples for block in shard.blocks] == [3, 1, 5] and shard.samples == 9
    archive = read_archive(path)
    assert shard.blocks[-1].offset + shard.blocks[-1].bytes == archive.end == shard.bytes - 4096
    starts = [sample.start for sample in read_samples(path, archive)]
    assert [block.offset for block in shard.blocks] == [starts[0], starts[3], starts[4]]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == shard.sha256
    assert shard.plain == shard.blocks and shard.plain_bytes == shard.bytes


def test_names_are_unique_in_a_set_and_sorted(written: Written) -> None:
    names = [member.name for member in read_archive(written[0]).members]
    assert names[0].startswith("train-00000-000000.") and names[1] == "train-00000-000000.cls"
    assert [member.key for member in read_archive(written[0]).members] == sorted(name.split(".")[0] for name in names)


def test_a_shard_without_images(tmp_path: Path) -> None:
    shard = write_image_shard(tmp_path / "a.tar", [], "png")
    assert shard.samples == 0 and len(read_table(open_store(tmp_path), shard)) == 0


ONE = EncodedImages([b"x"], np.zeros(1, np.int32), np.zeros(1, np.uint64))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (ONE._replace(files=[]), "a block of 0 images"),
        (ONE._replace(files=[b"x", b"y"]), "a block of 2 images"),
        (ONE._replace(sources=np.zeros(0, np.uint64)), "a block of 1 images"),
        (ONE._replace(labels=np.zeros(1, np.float32)), "float32"),
        (ONE._replace(labels=np.array([-1])), r"labels -1..-1"),
        (ONE._replace(labels=np.array([1 << 31])), r"labels 2147483648..2147483648"),
        (ONE._replace(files=[b""]), "an image file without content"),
        (ONE._replace(files=[bytes((1 << 20) + 1)]), "larger than 1048576 bytes"),
        (
            EncodedImages(
                [b"x"] * (MAX_IMAGES + 1), np.zeros(MAX_IMAGES + 1, int), np.zeros(MAX_IMAGES + 1, np.uint64)
            ),
            f"more than {MAX_IMAGES} images; write several shards",
        ),
    ],
)
def test_what_does_not_belong_is_refused(tmp_path: Path, block: EncodedImages, message: str) -> None:
    with pytest.raises(InputError, match=f"a.tar: .*{message}"):
        write_image_shard(tmp_path / "a.tar", [block], "png")


def forged(written: Written, tmp_path: Path, table: NDArray[Any]) -> Shard:
    """The shard with another table whose checksum is right."""
    buffer = io.BytesIO()
    np.save(buffer, table, allow_pickle=table.dtype == object)
    (tmp_path / written[1].table_name).write_bytes(buffer.getvalue())
    return replace(written[1], table_sha256=hashlib.sha256(buffer.getvalue()).hexdigest())


def changed(column: str, row: int, value: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def change(table: NDArray[Any]) -> NDArray[Any]:
        table[column][row] = value
        return table

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table[:-1], r"expected .* of 9 samples"),
        (lambda table: table[::-1], "row 0 is .*, outside its block or out of order"),
        (lambda table: table.astype(object), "object .* expected plain numbers"),
        (lambda table: table["offset"], "expected .* of 9 samples"),
        (changed("offset", 8, 1 << 40), "row 8 is"),
        (changed("offset", 1, (1 << 64) - 1), "row 1 is"),
        (changed("offset", 4, 0), "row 4 is"),
        (changed("bytes", 8, 1 << 20), "row 8 is"),
        (changed("bytes", 0, (1 << 20) + 1), "row 0 is"),
        (changed("label", 5, -1), "row 5 is"),
    ],
)
def test_a_table_that_leads_outside_is_refused(
    written: Written, tmp_path: Path, change: Callable[[NDArray[Any]], NDArray[Any]], message: str
) -> None:
    table = read_table(open_store(written[0].parent), written[1]).copy()
    shard = forged(written, tmp_path, change(table))
    with pytest.raises(CorruptShard, match=rf"train-00000.samples.npy: .*{message}.*make the set again"):
        read_table(open_store(tmp_path), shard)


def test_every_flipped_bit_of_a_table_is_refused(written: Written, tmp_path: Path) -> None:
    path, shard = written
    store, data = open_store(tmp_path), bytearray((path.parent / shard.table_name).read_bytes())
    for bit in range(len(data) * 8):
        data[bit // 8] ^= 1 << bit % 8
        (tmp_path / shard.table_name).write_bytes(data)
        with pytest.raises(CorruptShard, match="sha256"):
            read_table(store, shard)
        data[bit // 8] ^= 1 << bit % 8


def test_a_table_that_contradicts_its_tar_is_reported(written: Written) -> None:
    path, shard = written
    table = read_table(open_store(path.parent), shard).copy()
    assert table_problem(path, table) is None and table_problem(path, table[::2]) is None
    for column in ("offset", "bytes", "label"):
        wrong = changed(column, 4, int(table[column][4]) + 1)(table.copy())
        assert (table_problem(path, wrong) or "").startswith("row 4 of its table is")


def test_a_table_is_the_same_bytes_each_time(written: Written, tmp_path: Path) -> None:
    path, shard = written
    table = read_table(open_store(path.parent), shard)
    assert write_table(tmp_path, shard, table) == shard
    assert (tmp_path / shard.table_name).read_bytes() == (path.parent / shard.table_name).read_bytes()
    assert TABLE_TYPE.itemsize == 24 and image_table([]).dtype == TABLE_TYPE


def test_decoding_gives_back_what_was_encoded() -> None:
    images = drawn(20).images
    for image in images:
        assert np.array_equal(decode(encode(image, "png")), image)
        out = np.empty((64, 64), np.uint8)
        decode_into(np.frombuffer(encode(image, "png"), np.uint8), out)
        assert np.array_equal(out, image)
        decode_into(memoryview(encode(image, "jpg")), out)
        assert np.abs(out.astype(int) - image).mean() < 3


@pytest.mark.parametrize("name", hostile.BAD_IMAGES)
def test_bad_images_are_refused(name: str) -> None:
    with pytest.raises(InputError):
        decode(hostile.BAD_IMAGES[name])


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((64, 65), np.uint8), "found 65x64 pixels"),
        (np.zeros((64, 64, 3), np.uint8), "found 64x64 pixels, 8-bit, 3 channels; expected 64x64 pixels, 8-bit gray"),
    ],
)
def test_jpegs_of_another_kind_are_refused(pixels: NDArray[np.uint8], message: str) -> None:
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    with pytest.raises(InputError, match=message):
        decode(data)


@pytest.mark.parametrize("image_format", ["png", "jpg"])
def test_every_cut_of_an_image_is_refused(image_format: Any) -> None:
    data = encode(drawn(1).images[0], image_format)
    for length in range(len(data)):
        with pytest.raises(InputError):
            decode(data[:length])


def test_no_flipped_bit_of_a_png_gives_other_pixels(capfd: pytest.CaptureFixture[str]) -> None:
    """Here by its checksums, and in training, where they are left to the decoder, too."""
    image: NDArray[np.uint8] = drawn(1).images[0]
    data, out = bytearray(encode(image, "png")), np.empty((64, 64), np.uint8)
    for bit in range(len(data) * 8):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InputError):
            decode(bytes(data))
        try:
            decode_into(bytes(data), out)
            assert np.array_equal(out, image), bit
        except InputError:
            pass
        data[bit // 8] ^= 1 << bit % 8
    capfd.readouterr()  # libpng writes about each to stderr
