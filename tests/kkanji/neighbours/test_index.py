"""The index of features: what it keeps of them, and what is refused in its file."""

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import normalize

from kkanji.neighbours.index import Index, make_index, parse_index
from kkanji.neighbours.quantise import decode, encode, learn_codebooks


def some_features(count: int, width: int = 8, *, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_an_index_of_few_images_loses_nothing_but_half_precision() -> None:
    features, labels = some_features(40), torch.arange(40) % 3
    index = make_index(features, labels, 4, parts=2, most=50)
    order = labels.argsort(stable=True)
    assert index.labels().tolist() == labels[order].tolist() and index.counts.tolist() == [14, 13, 13, 0]
    expected = normalize(features[order])
    assert torch.allclose(index.vectors() @ index.projection.float().T, expected, atol=4e-3)  # a rotation


def test_a_class_of_many_images_has_means_that_are_nearer_to_them_than_as_many_images() -> None:
    features = normalize(some_features(163, 8))
    index = make_index(features, torch.tensor([0] * 160 + [1] * 3), 2, parts=8, most=12)
    assert index.counts.tolist() == [12, 3]
    vectors = index.vectors() @ index.projection.float().T
    assert torch.allclose(vectors.norm(dim=1), torch.ones(15), atol=1e-2)
    assert torch.allclose(vectors[12:], features[160:], atol=2e-2)  # few images are there themselves

    def nearness(of: Tensor) -> float:
        return float((features[:160] @ of.T).max(dim=1).values.mean())

    assert nearness(vectors[:12]) > nearness(features[:12]) + 0.05


def test_more_parts_are_nearer_and_codes_name_the_nearest_piece() -> None:
    features = normalize(some_features(1500, 16))
    errors = []
    for parts in (2, 4, 8):
        codebooks = learn_codebooks(features, parts)
        assert codebooks.shape == (parts, 256, 16 // parts)
        codes = encode(features, codebooks)
        errors.append(float((decode(codes, codebooks) - features).square().sum(dim=1).mean()))
        chosen = codebooks[0][codes[:9, 0].long()]
        nearest = torch.cdist(features[:9, : 16 // parts], codebooks[0]).argmin(dim=1)
        assert torch.equal(chosen, codebooks[0][nearest])
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.02
    first = features[:256]
    assert torch.equal(learn_codebooks(features, 4), learn_codebooks(features, 4))
    random_pieces = torch.stack(first.chunk(4, dim=1))
    of_random = (decode(encode(features, random_pieces), random_pieces) - features).square().sum(dim=1).mean()
    assert errors[1] < 0.9 * float(of_random)


def test_added_images_keep_their_features_and_may_be_of_new_classes() -> None:
    index = make_index(some_features(10), torch.zeros(10, dtype=torch.int64), 1, parts=2, most=50)
    new = some_features(3, seed=1)
    larger = parse_index(index.with_images(new, torch.tensor([2, 2, 0]), 3).to_bytes(), classes=3, width=8)
    assert larger.labels().tolist() == [0] * 10 + [2, 2, 0] and larger.counts.tolist() == [10, 0, 0]
    assert torch.allclose(larger.vectors()[10:] @ index.projection.float().T, normalize(new), atol=4e-3)


def test_a_file_is_read_as_written() -> None:
    index = make_index(some_features(20), torch.arange(20) % 5, 5, parts=4, most=50)
    again = parse_index(index.to_bytes(), classes=5, width=8)
    assert torch.equal(again.vectors(), index.vectors()) and torch.equal(again.labels(), index.labels())


def changed(index: Index, **arrays: Tensor) -> bytes:
    names = ("projection", "codebooks", "codes", "counts", "added", "added_labels")
    return safetensors.torch.save({name: getattr(index, name).contiguous() for name in names} | arrays)


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"codes": torch.full((20, 4), 255, dtype=torch.uint8)}, "a code beyond the codebook"),
        ({"codes": torch.zeros(20, 3, dtype=torch.uint8)}, "codes of 3 parts, codebooks of 4"),
        ({"counts": torch.tensor([4, 4, 4, 4, 5], dtype=torch.int32)}, "counts of other images"),
        ({"counts": torch.tensor([24, -4, 0, 0, 0], dtype=torch.int32)}, "counts of other images"),
        ({"counts": torch.ones(20, dtype=torch.int32)}, "counts of 20 classes, the model has 5"),
        ({"codebooks": torch.full((4, 20, 2), torch.nan, dtype=torch.float16)}, "what is not a number"),
        (
            {"codebooks": torch.zeros(4, 20, 3, dtype=torch.float16)},
            r"a projection of shape \(8, 8\), the network has 8 features",
        ),
        ({"codebooks": torch.zeros(4, 20, 2)}, "expected projection, codebooks, codes"),
        ({"added_labels": torch.zeros(1, dtype=torch.int32)}, "added features of shape"),
        (
            {"added": torch.zeros(1, 8, dtype=torch.float16), "added_labels": torch.tensor([5], dtype=torch.int32)},
            "an added image of no class",
        ),
        ({"more": torch.zeros(1)}, "expected projection, codebooks, codes"),
    ],
)
def test_a_file_that_no_kkanji_wrote_is_refused(arrays: dict[str, Tensor], found: str) -> None:
    index = make_index(some_features(20), torch.arange(20) % 5, 5, parts=4, most=50)
    with pytest.raises(ValueError, match=found):
        parse_index(changed(index, **arrays), classes=5, width=8)


def test_bytes_that_are_no_such_file_are_refused() -> None:
    for data in (b"", b"x" * 100, b"\xff" * 8 + b"{}"):
        with pytest.raises(ValueError, match="not a safetensors file"):
            parse_index(data, classes=5, width=8)
