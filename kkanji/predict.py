"""Reading characters in image files with a trained checkpoint."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from kkanji import checkpoint
from kkanji.classes import ClassMap
from kkanji.models import create_model
from kkanji.pixels import normalise
from shards import InputError
from shards.layout import IMAGE_SIZE

LARGEST_PIXELS = 4096 * 4096  # more is no picture of one character, and could be a decompression bomb


@dataclass(frozen=True, kw_only=True, slots=True)
class Guess:
    """One reading of an image."""

    character: str
    label: str
    """`U+4E00`"""
    probability: float


class CharacterReader:
    """A trained model on a device."""

    def __init__(self, path: Path, device: torch.device) -> None:
        checkpoint.check(path)
        self.classes: ClassMap = checkpoint.read_classes(path)
        model = create_model(checkpoint.read_state(path)["config"]["model"], len(self.classes))
        checkpoint.load_model(path, model)
        self.device = device
        self.model = model.to(device).to(memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def read(self, images: NDArray[np.uint8], top: int) -> list[list[Guess]]:
        """The `top` most probable characters of each image; images [n, 64, 64], white ink on black."""
        pixels = torch.from_numpy(images).to(self.device)[:, None]
        probability = self.model(normalise(pixels)).float().softmax(dim=1)
        best = probability.topk(min(top, len(self.classes)), dim=1)
        return [
            [self._guess(number, value) for number, value in zip(numbers, values, strict=True)]
            for numbers, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def _guess(self, number: int, probability: float) -> Guess:
        return Guess(
            character=self.classes.characters[number], label=self.classes.labels[number], probability=probability
        )


def load_character(path: Path) -> NDArray[np.uint8]:
    """An image file as the models know characters: uint8 [64, 64], white ink on black.

    Dark ink on light paper is inverted; other sizes are scaled to fit, keeping their proportions, on black.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > LARGEST_PIXELS:
                raise InputError(f"{path}: {image.width}x{image.height} pixels; expected a picture of one character")
            gray = np.asarray(_opaque(image).convert("L"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InputError(
            f"{path}: not a readable image ({error}); expected PNG, JPEG or another Pillow reads"
        ) from error
    ink = 255 - gray if _border_mean(gray) > 127 else gray
    return ink if ink.shape == (IMAGE_SIZE, IMAGE_SIZE) else _fit(ink)


def _opaque(image: Image.Image) -> Image.Image:
    """Transparent parts count as paper."""
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return image
    layered = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)


def _border_mean(gray: NDArray[np.uint8]) -> float:
    return float(np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]]).mean())


def _fit(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = ink.shape
    scale = IMAGE_SIZE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    scaled = Image.fromarray(ink).resize(size, Image.Resampling.LANCZOS)
    result = Image.new("L", (IMAGE_SIZE, IMAGE_SIZE))
    result.paste(scaled, ((IMAGE_SIZE - size[0]) // 2, (IMAGE_SIZE - size[1]) // 2))
    return np.asarray(result)
