"""The same training steps in PyTorch: reads `model samples steps` lines, prints
`<milliseconds per step> <milliseconds per forward pass in evaluation mode> <peak MB>`.

Started by benches/train.rs. Models have the layers of src/graph/models.
"""

import resource
import sys
import time

import torch
from torch import nn
import torch.nn.functional as F

class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(x + y)


def resnet(blocks):
    layers, inputs = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
    for outputs, stride in [(16, 1), (32, 2), (64, 2)]:
        for block in range(blocks):
            layers.append(Block(inputs, outputs, stride if block == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def mlp(*widths):
    layers = [nn.Flatten()]
    for inputs, outputs in zip((784,) + widths, widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


def lenet5():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )


MODELS = {
    "lenet5": (lenet5, (1, 28, 28)),
    "resnet8": (lambda: resnet(1), (3, 32, 32)),
    "resnet20": (lambda: resnet(3), (3, 32, 32)),
    "mlp-300-100": (lambda: mlp(300, 100), (1, 28, 28)),
    "mlp-2048-2048": (lambda: mlp(2048, 2048), (1, 28, 28)),
}


def run(name, samples, steps):
    make, shape = MODELS[name]
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)
    images = torch.randn(samples, *shape)
    labels = torch.randint(0, 10, (samples,))

    def step():
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    def best(work):
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return min(times) * 1e3

    step()
    trained = best(step)
    model.eval()
    with torch.inference_mode():
        model(images)
        evaluated = best(lambda: model(images))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(trained, evaluated, peak, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    torch.manual_seed(0)
    for line in sys.stdin:
        model, samples, steps = line.split()
        run(model, int(samples), int(steps))
