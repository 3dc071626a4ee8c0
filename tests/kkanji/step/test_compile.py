"""The compiled network: what an uncompiled one computes, in a known number of graphs."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from timm.models._efficientnet_builder import decode_arch_def
from torch import Tensor, nn
from torch import _dynamo as dynamo
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel

from kkanji import models
from kkanji.models import Network, compile_network
from kkanji.timm_models import mixed
from kkanji.training.objective import Mixing, Mixup

CPU = torch.device("cpu")
STAGES = 2
MIXUP = Mixup(alpha=1.0, stages=STAGES)


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    """Before and after: a limit of graphs is one of each line of code, not of each network."""
    dynamo.reset()
    counters.clear()
    with dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):  # torch's own, afterwards
        yield
    dynamo.reset()


def small_network(channels: int) -> nn.Module:
    torch.manual_seed(0)
    stages = ("er_r1_k3_s2_e1_c8", "ir_r1_k3_s2_e2_c8_se0.25", f"er_r1_k3_s1_e1_c{channels}")
    blocks = decode_arch_def([[stage] for stage in stages])
    return Network(blocks, num_classes=5, num_features=channels, in_chans=1, stem_size=8, act_layer=nn.SiLU)


def pair(channels: int = 8) -> tuple[nn.Module, nn.Module]:
    """A network and its compiled twin."""
    plain, twin = small_network(channels), small_network(channels)
    compile_network(twin, backend="eager")
    return plain, twin


def images(count: int, size: int = 32) -> Tensor:
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(count))


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def by_a_hook(network: nn.Module, mixing: Mixing, inputs: Tensor) -> Tensor:
    """Logits with the output of a stage mixed from outside, by a hook."""
    if mixing.stage == 0:
        logits: Tensor = network(mixing.of(inputs))
        return logits
    hook = network.get_submodule(f"blocks.{mixing.stage - 1}").register_forward_hook(lambda *given: mixing.of(given[2]))
    logits = network(inputs)
    hook.remove()
    return logits


@pytest.mark.parametrize("stage", range(STAGES + 1))
def test_a_stage_is_mixed_in_either(stage: int) -> None:
    """An uncompiled network's hook, added after the first call, was not seen by a compiled one: its labels were mixed,
    its images were not."""
    plain, twin = pair()
    twin(images(4), MIXUP.fractions(Mixing(fraction=0.9, stage=0), CPU))
    mixing = Mixing(fraction=0.3, stage=stage)
    expected = by_a_hook(small_network(8), mixing, images(4))
    for network in (plain, twin):
        found = network(images(4), MIXUP.fractions(mixing, CPU))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected, small_network(8)(images(4)), atol=1e-3)


def test_a_fraction_of_one_changes_no_bit() -> None:
    values = torch.randn(5, 3, 4, 4).to(torch.bfloat16).requires_grad_()
    result = mixed(values, torch.ones(()))
    assert torch.equal(result, values)
    weights = torch.randn(5, 3, 4, 4)
    (result * weights).sum().backward()
    assert values.grad is not None and torch.equal(values.grad, weights.to(torch.bfloat16))


def test_one_graph_for_all_stages_and_numbers_of_images() -> None:
    """Odd last batches and every stage; the gradients are those of the uncompiled network."""
    plain, twin = pair()
    for count, stage in ((8, 0), (7, 1), (3, 2), (8, 1)):
        fractions = MIXUP.fractions(Mixing(fraction=0.4, stage=stage), CPU)
        for network in (plain, twin):
            network.zero_grad()
            network(images(count), fractions).square().sum().backward()
        for expected, found in zip(plain.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(found.grad, expected.grad, atol=1e-4, rtol=1e-3)
    assert graphs() == 1


def test_a_graph_for_each_size_and_none_twice() -> None:
    """As images grow; and one for a single image, whose loops torch leaves out."""
    _, twin = pair()
    for size in (16, 24, 16):
        for count in (6, 5):
            twin(images(count, size))
    assert graphs() == 2
    twin(images(1, 24))
    assert graphs() == 3


def test_a_graph_to_evaluate_by() -> None:
    """The compiled network itself, where no average of the weights takes its place."""
    plain, twin = pair()
    for network in (plain, twin):
        network(images(4))
    for count in (4, 6, 5):
        with torch.inference_mode():
            torch.testing.assert_close(twin.eval()(images(count)), plain.eval()(images(count)), atol=1e-5, rtol=1e-4)
    assert graphs() == 2


def test_more_graphs_than_planned_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, torch runs on uncompiled, many times slower, and says nothing."""
    monkeypatch.setattr(models, "MOST_GRAPHS", 1)
    _, twin = pair()
    twin(images(4, 16))
    with pytest.raises(FailOnRecompileLimitHit, match="limit"):
        twin(images(4, 32))


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A run of one rank, distributed all the same."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_distributed_training_needs_no_more_graphs() -> None:
    """Though torch cuts it where gradients are exchanged in parts, here of a megabyte. Micro-batches without an
    exchange, odd numbers of images and stages make no new ones."""
    plain, twin = pair(channels=192)
    wrapped = DistributedDataParallel(twin, bucket_cap_mb=1, gradient_as_bucket_view=True)
    wrapped.broadcast_buffers = False
    found = []
    for count, stage, exchanged in ((8, 0, True), (7, 1, False), (8, 2, True), (5, 2, True)):
        fractions = MIXUP.fractions(Mixing(fraction=0.4, stage=stage), CPU)
        with nullcontext() if exchanged else wrapped.no_sync():
            wrapped(images(count), fractions).square().sum().backward()
        plain(images(count), fractions).square().sum().backward()
        found.append(graphs())
    assert found == [1] * 4
    for expected, own in zip(plain.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own.grad, expected.grad, atol=1e-4, rtol=1e-3)
