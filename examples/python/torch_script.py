"""torch_script.py - an ordinary PyTorch script on the CPU that distils one network into another; one line of it is libkd's.

Needs PyTorch and libkd:

    python examples/python/torch_script.py

SPDX-License-Identifier: MIT
"""
import torch
from torch import nn

from libkd.demo import digits
from libkd.torch import KDLoss

torch.manual_seed(0)
data = digits()
x = torch.stack([torch.tensor(data[i][0].tolist(), dtype=torch.float32).flatten() for i in range(len(data))]) / 16
y = torch.tensor(data.labels.tolist())
order = torch.randperm(len(x))
train, test = order[360:], order[:360]


def fit(student, criterion, teacher=None, epochs=15):
    opt = torch.optim.Adam(student.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in train[torch.randperm(len(train))].split(64):
            logits = student(x[rows])
            if teacher is None:
                loss = criterion(logits, y[rows])
            else:
                with torch.no_grad():
                    soft = teacher(x[rows])
                loss = criterion(logits, soft, y[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()
    with torch.no_grad():
        return (student(x[test]).argmax(1) == y[test]).float().mean().item()


teacher = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
student = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
print(f"teacher {fit(teacher, nn.CrossEntropyLoss()):.3f}")

# before: def criterion(s, t, y):
#             kl = F.kl_div(F.log_softmax(s / 4, 1), F.softmax(t / 4, 1), reduction="batchmean")
#             return 0.1 * F.cross_entropy(s, y) + 0.9 * 16 * kl
criterion = KDLoss(temperature=4.0, hard_weight=0.1, soft_weight=0.9)
print(f"student {fit(student, criterion, teacher):.3f}")
print(criterion.last)
