#!/usr/bin/env python3
# ddp_torch.py - libkd.torch.KDLoss inside PyTorch's DistributedDataParallel: a teacher and its student on two processes (gloo).
# SPDX-License-Identifier: MIT
#
# The loss is a module like any other: it runs on each process's part of the batch, and DistributedDataParallel averages the
# gradients.  The parts are of one size here (what is left over after whole batches is left out), so the mean of the means is the
# mean; for uneven parts take reduction="sum", and divide by the rows of all processes.
#
#     python examples/python/ddp_torch.py [DIR with digits-images.idx and digits-labels.idx]
import os
import struct
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from libkd.torch import KDLoss

EPOCHS, BATCH, PROCESSES = 10, 64, 2


def digits(directory):
    """Images as floats [n, 64] and labels [n], from IDX."""
    with open(os.path.join(directory, "digits-images.idx"), "rb") as f:
        _, n, h, w = struct.unpack(">4I", f.read(16))
        images = torch.frombuffer(bytearray(f.read()), dtype=torch.uint8).reshape(n, h * w) / 16
    with open(os.path.join(directory, "digits-labels.idx"), "rb") as f:
        f.read(8)
        labels = torch.frombuffer(bytearray(f.read()), dtype=torch.uint8).long()
    held = torch.arange(n) % 5 == 0  # every fifth is held out
    return images[~held], labels[~held], images[held], labels[held]


def mlp(*sizes, seed):
    torch.manual_seed(seed)
    layers = []
    for a, b in zip(sizes, sizes[1:]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(model, teacher, x, y, rank, world):
    """Data-parallel on `world` processes; with no teacher from the labels alone.  The mean loss of each step."""
    ddp = DistributedDataParallel(model)
    loss_of = KDLoss(temperature=4.0, hard_weight=0.1, soft_weight=0.9) if teacher else nn.CrossEntropyLoss()
    opt = torch.optim.SGD(ddp.parameters(), lr=0.02, momentum=0.9)
    order = torch.Generator().manual_seed(7)  # the same on every process
    part = BATCH // world
    losses = []
    for _ in range(EPOCHS):
        shuffled = torch.randperm(len(x), generator=order)
        for batch in shuffled[: len(x) // BATCH * BATCH].split(BATCH):
            mine = batch[rank * part : (rank + 1) * part]
            student = ddp(x[mine])
            if teacher:
                with torch.no_grad():
                    taught = teacher(x[mine])
                loss = loss_of(student, taught, y[mine])
            else:
                loss = loss_of(student, y[mine])
            opt.zero_grad()
            loss.backward()
            opt.step()
            mean = loss.detach().double() / world
            dist.all_reduce(mean)
            losses.append(mean.item())
    return losses


def run(rank, world, rendezvous, directory, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    x, y, test_x, test_y = digits(directory)
    teacher = mlp(64, 256, 256, 10, seed=1)
    losses = train(teacher, None, x, y, rank, world)
    teacher.eval()
    student = mlp(64, 32, 10, seed=2)
    losses += train(student, teacher, x, y, rank, world)
    weights = nn.utils.parameters_to_vector(student.parameters()).detach()
    every = [torch.empty_like(weights) for _ in range(world)]
    dist.all_gather(every, weights)
    same = all(torch.equal(weights, other) for other in every)
    right = (student(test_x).argmax(1) == test_y).double().mean().item()
    if rank == 0:
        torch.save({"losses": losses, "same": same, "accuracy": right}, out)
    dist.destroy_process_group()


def main():
    directory = sys.argv[1] if len(sys.argv) > 1 else "examples/data"
    results = {}
    with tempfile.TemporaryDirectory() as tmp:
        for world in (1, PROCESSES):
            out = os.path.join(tmp, f"{world}.pt")
            mp.spawn(run, args=(world, os.path.join(tmp, f"rendezvous{world}"), directory, out), nprocs=world)
            results[world] = torch.load(out)
    one, many = results[1], results[PROCESSES]
    apart = max(abs(a - b) for a, b in zip(one["losses"], many["losses"]))
    steps = len(many["losses"])
    print(f"{PROCESSES} processes: student {100 * many['accuracy']:.1f} %, {steps} losses at most {apart:.1e} from those of one "
          f"process, weights {'equal' if many['same'] else 'DIFFERENT'} on all")
    return 0 if many["same"] and apart < 1e-5 and len(one["losses"]) == steps and many["accuracy"] > 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
