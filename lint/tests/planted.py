"""Mistakes planted into sound modules: rule -> (sound code, what is changed, what it becomes, the line then reported).

For the core rules that no package of strangers gave a finding of. Each module is whole and finds nothing as it stands.
"""

from typing import NamedTuple


class Plant(NamedTuple):
    """A sound module and one edit that makes the mistake."""

    rule: str
    sound: str
    old: str
    new: str
    line: int


MEMORY = """
import torch
from torch import nn


class Memory(nn.Module):
    def __init__(self, width, levels):
        super().__init__()
        self.write_gate = nn.Linear(width, 1)
        self.retain_logits = nn.Parameter(torch.zeros(levels, width))
        self.levels = levels

    def init_state(self, batch):
        return [torch.zeros(batch, self.retain_logits.shape[1]) for _ in range(self.levels)]

    def forward(self, x, states):
        out, new = [], []
        for level, state in enumerate(states):
            retain = torch.sigmoid(self.retain_logits[level])
            state = retain * state + self.write_gate(x).sigmoid() * x
            new.append(state)
            out.append(state)
        return torch.stack(out).mean(0), new
"""

RUN = """
import torch


def build(model, stream, optimizers, schedule, probe, log, prompt):
    for step, batch in enumerate(stream):
        pulse = schedule.at(step)
        loss = model(batch).mean()
        loss.backward()
        for level in model.levels:
            if pulse.active(level):
                optimizers[level].step()
        probe.check(model)
        schedule.advance()
        if step % 100 == 0:
            with isolated_state(model):
                log(generate(model, prompt))
"""

METERS = """
import pynvml
import torch.distributed as dist


def report(handle, tokens, seconds):
    world = dist.get_world_size()
    busy = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
    return {"gpu_util": busy, "tokens_per_s_per_gpu": tokens / seconds, "tokens_per_s_all": tokens * world / seconds}
"""

GRAFT = """
def graft(model, cfg):
    for index in range(len(model.layers)):
        model.layers[index] = Gate(model.layers[index], MemoryBlock(cfg))
    return model
"""

RULE = """
class Delta(MemoryRule):
    def __init__(self, bias, algorithm):
        self.bias = bias
        self.algorithm = algorithm

    def step(self, M, k, v):
        loss = self.bias.loss(M, k, v)
        return self.algorithm.step(M, loss)
"""

OPTIMIZER = """
import torch


def optimizers(cms_model):
    return {level.name: torch.optim.AdamW(level.parameters(), lr=1e-3) for level in cms_model.levels}
"""

PLANTED = [
    Plant("CS-39", MEMORY, "torch.sigmoid(self.retain_logits[level])", "self.retain_logits[level]", 10),
    Plant(
        "CS-48",
        MEMORY.replace("retain_logits", "retain_raw"),
        "nn.Parameter(torch.zeros(levels, width))",
        "nn.ParameterList([self.retain] * levels)",
        10,
    ),
    Plant("CS-49", RUN, "            with isolated_state(model):\n    ", "", 16),
    Plant(
        "CS-32",
        RUN,
        "        probe.check(model)\n        schedule.advance()\n",
        "        schedule.advance()\n        probe.check(model)\n",
        14,
    ),
    Plant(
        "CS-41",
        METERS,
        ', "tokens_per_s_per_gpu": tokens / seconds, "tokens_per_s_all": tokens * world / seconds',
        "",
        9,
    ),
    Plant("CS-43", METERS, '"tokens_per_s_per_gpu": tokens / seconds, ', "", 9),
    Plant("CS-22", GRAFT, "Gate(model.layers[index], MemoryBlock(cfg))", "MemoryBlock(cfg)", 4),
    Plant("CS-33", RULE, "self.bias.loss(M, k, v)", "((M @ k - v) ** 2).sum()", 8),
    Plant(
        "CS-27",
        OPTIMIZER,
        "{level.name: torch.optim.AdamW(level.parameters(), lr=1e-3) for level in cms_model.levels}",
        "torch.optim.AdamW(cms_model.parameters(), lr=1e-3)",
        6,
    ),
]
