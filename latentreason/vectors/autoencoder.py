"""A top-k sparse autoencoder in torch, as small as the spans of one model need: one latent a category.

It knows nothing of spans or models: rows in, encoder out::

    weight, bias, losses = train_sae(x, n=10, seed=0)      # the category of a row: (x @ weight.T + bias).argmax(1)
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

FIRST = 5
"""Epochs after which one start is chosen."""

BETTER = 0.999
"""A loss counts as better from this share of the best one downwards: the last tenths of a percent take most of the epochs."""


def train_sae(
    x: Float[np.ndarray, "row d_model"], n: int, seed: int, *, k: int = 3, epochs: int = 300, patience: int = 10, batch: int = 512, starts: int = 3
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """A top-k sparse autoencoder: encoder linear with bias, unit-norm decoder rows that begin as the encoder's, loss = fraction of variance unexplained.

    The encoder begins at n rows far from one another (k-means++). Of several such starts the one with the least loss after five epochs goes on.

    Args:
        x: rows.
        n: latents.
        seed: of starts, order and the tenth of the rows that is kept to stop by.
        k: latents that are active at a time.
        epochs, patience: at most, and without a better loss on the kept rows.
        batch: rows of a step of Adam, learning rate 2e-4 / sqrt(n / 2^14).
        starts: see above.

    Returns:
        Encoder weight, encoder bias, and the kept loss by epoch, the first before any training.
    """
    from sklearn.cluster import kmeans_plusplus

    generator = torch.Generator().manual_seed(seed)
    data = torch.from_numpy(np.asarray(x, dtype=np.float32))
    order, tenth = torch.randperm(len(data), generator=generator), max(1, len(data) // 10)
    kept, rest = data[order[:tenth]], data[order[tenth:]]
    begun = [_Training(torch.from_numpy(kmeans_plusplus(rest.numpy(), n, random_state=seed + i)[0]), rest, kept, k, batch, generator) for i in range(starts)]
    for training in begun:
        for _ in range(min(epochs, FIRST) if starts > 1 else 0):
            training.epoch()
    best = min(begun, key=lambda training: training.losses[-1])
    while len(best.losses) <= epochs and best.waited < patience:
        best.epoch()
    return best.encoder.astype(np.float64), best.bias.astype(np.float64), best.losses


class _Training:
    """One start, and how far it has come. `encoder` and `bias` are those with the best kept loss so far."""

    def __init__(self, rows: torch.Tensor, rest: torch.Tensor, kept: torch.Tensor, k: int, batch: int, generator: torch.Generator) -> None:
        units = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
        self.parameters = [p.clone().requires_grad_(True) for p in (units, torch.zeros(len(rows)), units, rest.mean(0))]
        self.adam = torch.optim.Adam(self.parameters, lr=2e-4 / (len(rows) / 2**14) ** 0.5)
        self.rest, self.kept, self.k, self.batch, self.generator = rest, kept, k, batch, generator
        self.losses, self.waited = [unexplained(kept, k, *self.parameters).item()], 0
        self._keep()

    def _keep(self) -> None:
        self.best, self.encoder, self.bias = self.losses[-1], *(p.detach().numpy().copy() for p in self.parameters[:2])

    def epoch(self) -> None:
        for part in self.rest[torch.randperm(len(self.rest), generator=self.generator)].split(self.batch):
            self.adam.zero_grad()
            unexplained(part, self.k, *self.parameters).backward()
            self.adam.step()
            with torch.no_grad():
                self.parameters[2].div_(self.parameters[2].norm(dim=1, keepdim=True).clamp_min(1e-12))
        with torch.no_grad():
            self.losses.append(unexplained(self.kept, self.k, *self.parameters).item())
        self.waited = 0 if self.losses[-1] < BETTER * self.best else self.waited + 1
        if not self.waited:
            self._keep()


def unexplained(
    x: Float[Tensor, "row d_model"], k: int, encoder: Float[Tensor, "latent d_model"], bias: Float[Tensor, "latent"],
    decoder: Float[Tensor, "latent d_model"], centre: Float[Tensor, "d_model"],
) -> Float[Tensor, ""]:  # fmt: skip
    """Squared error of the reconstruction over the squared distance from the mean."""
    found = (x @ encoder.T + bias).topk(min(k, len(bias)), dim=1)
    sparse = torch.zeros(len(x), len(bias)).scatter(1, found.indices, found.values.relu())
    return ((x - sparse @ decoder - centre) ** 2).sum() / ((x - x.mean(0)) ** 2).sum().clamp_min(1e-12)
