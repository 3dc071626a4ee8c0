"""Progress bars with rates, on stderr if it is a terminal."""

from tqdm import tqdm


def count_images(total: int | None = None) -> "tqdm[None]":
    """A progress bar of images and images/s."""
    return tqdm(total=total, unit="img", unit_scale=True, disable=None, dynamic_ncols=True)


def count_bytes(total: int) -> "tqdm[None]":
    """A progress bar of bytes and bytes/s."""
    return tqdm(total=total, unit="B", unit_scale=True, disable=None, dynamic_ncols=True)
