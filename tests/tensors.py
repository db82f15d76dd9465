"""Tensors for tests of mixers and models, and what it means that two functions are the same."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

CLOSE = {"rtol": 1e-8, "atol": 1e-9}


def tokens(*shape, seed=0, dtype=torch.float64):
    """Return normal numbers that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


def randomised(module, seed=0):
    """Return the module in float64 with every weight random, biases and gates included."""
    with torch.no_grad():
        for i, weight in enumerate(module.double().parameters()):
            weight.copy_(tokens(*weight.shape, seed=1000 * seed + i))
    return module


def stepped(mixer, x, state=None):
    """Return what a mixer makes of ``x`` token by token, and the state after it."""
    state = mixer.initial_state(x.shape[0]) if state is None else state
    outputs = []
    for x_t in x.unbind(1):
        y_t, state = mixer.step(x_t, state)
        outputs.append(y_t)
    return torch.stack(outputs, 1), state


def assert_same(y, z, inputs, **close):
    """Compare values, and the gradients of one direction with respect to all inputs."""
    torch.testing.assert_close(y, z, **(close or CLOSE))
    direction, inputs = tokens(*y.shape, seed=9, dtype=y.dtype), list(inputs)
    kind = {"allow_unused": True, "materialize_grads": True}  # zero where nothing depends on it
    one, other = (torch.autograd.grad((v * direction).sum(), inputs, **kind) for v in (y, z))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, **(close or CLOSE))


def assert_same_mixing(mixer, other, x):
    """Compare a mixer with another function of ``x``, gradients of its weights included."""
    x = x.requires_grad_()
    assert_same(mixer(x), other(x), [x, *mixer.parameters()])


def fitting(mixer, x):
    """Return as much of a sequence as a mixer can read."""
    return x[:, : mixer.longest]


class Multiplications(TorchDispatchMode):
    """Counts multiplications and divisions of numbers inside the ``with`` block."""

    def __init__(self):
        """Start at none."""
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Run a function of torch and add what it multiplies."""
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ("mul", "mul_", "div", "div_", "addcmul", "square"):
            self.n += out.numel()
        elif name == "dot":
            self.n += args[0].numel()
        elif name in ("mm", "bmm", "addmm", "baddbmm", "mv"):
            left = args[-2]
            self.n += out.numel() * left.shape[-1]
        return out
