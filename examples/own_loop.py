"""Train a timm ResNet in your own Accelerate loop, fed by kkanji's DALI loader: `python own_loop.py SET [STEPS]`."""

import sys

import torch
from accelerate import Accelerator

from kkanji import Feed, Loader, Policy, create_model, normalise, open_set
from shards import Plan, SampleOrder

data, steps = open_set(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100
train = data.split("train")
order = SampleOrder(samples=train.samples, seed=0)
plan = Plan(samples=train.samples, epochs=10_000, batch_size=64)
accelerator = Accelerator()
model = create_model("resnet10t", data.manifest.classes)
model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
feed = Feed(reader=train, order=order, classes=data.manifest.classes, policy=Policy())
spans = (plan.rank_span(step, accelerator.process_index, accelerator.num_processes) for step in range(steps))
with Loader(feed, spans, accelerator.device, largest=plan.batch_size) as loader:
    for step, batch in enumerate(loader, start=1):
        logits = model(normalise(batch.images))
        loss = torch.nn.functional.cross_entropy(logits, batch.labels)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        accelerator.print(f"step {step}: loss {loss.item():.3f}")
