"""The order alone, for any array of yours: exact epochs in constant memory, resumed by one integer, on any ranks."""

from shards import Plan, SampleOrder

order = SampleOrder(samples=38_000_000, seed=0)  # nothing is stored: numbers are computed when they are asked for
plan = Plan(samples=order.samples, epochs=20, batch_size=50_000)
step = 12_345  # all that a checkpoint needs to remember
for rank in range(2):
    numbers = order.at(*plan.rank_span(step, rank, ranks=2))
    print(f"step {step} of {plan.steps}, rank {rank}: {len(numbers)} samples, the first {numbers[:3].tolist()}")
