"""`discover`: categories of spans without labels, from mean span activations (Venhoff et al. 2025, arXiv 2510.07364).

A span is the mean of its states, from the token before it to its last; the mean of all spans is subtracted and each is brought to length 1. Every
method ends as one linear reader, and a span belongs to the category with the largest `weight @ x + bias`::

    spans = lr.tag(rollouts)                                             # or tag(rollouts, rules.EVERY, tokenizer=...) for every sentence
    found = lr.discover(capture_spans(lm, rollouts, spans, layers=2))    # how many categories is chosen on held-out problems
    lr.tag(rollouts, found.labeller(lm))                                 # spans named by category
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from latentreason.activations.sites import Activations, Site
from latentreason.errors import InvalidInput, unknown_name
from latentreason.strategies.judge import Judge
from latentreason.vectors.autoencoder import train_sae
from latentreason.vectors.contrast import halves_of
from latentreason.vectors.judging import judged
from latentreason.vectors.taxonomy import SHOWN, Strategies, centroids_of, normalised, values_at

AMONG = (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20)
"""Numbers of categories that are tried where none is given."""

PER_CATEGORY = 10
"""Spans of the fitting problems that a category needs on average, for its number to be tried."""

COMPONENTS = 24
"""Principal components that a Gaussian mixture sees, at most."""

TYPICAL = 20
"""Spans of a category that are kept as its typical ones, at most."""

Reader = tuple[Float[np.ndarray, "category d_model"], Float[np.ndarray, "category"]]
Method = Callable[[Float[np.ndarray, "span d_model"], int, int], Reader]


def kmeans(x: Float[np.ndarray, "span d_model"], n: int, seed: int) -> Reader:
    """The nearest of n centres, ten starts."""
    from sklearn.cluster import KMeans

    centres = KMeans(n, n_init=10, random_state=seed).fit(x).cluster_centers_
    return centres, -(centres**2).sum(1) / 2


def gmm(x: Float[np.ndarray, "span d_model"], n: int, seed: int) -> Reader:
    """A mixture of n Gaussians of one covariance, on the first principal components: the distance to a centre counts less along what varies within categories."""
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    pca = PCA(min(COMPONENTS, *x.shape), random_state=seed).fit(x)
    z = pca.transform(x)
    mixture = GaussianMixture(n, covariance_type="tied", n_init=2, reg_covar=1e-6 * float(z.var(0).max() or 1.0), random_state=seed, max_iter=200).fit(z)
    towards = mixture.means_ @ mixture.precisions_
    weight = towards @ pca.components_
    return weight, np.log(mixture.weights_) - (towards * mixture.means_).sum(1) / 2 - weight @ pca.mean_


def topk_sae(x: Float[np.ndarray, "span d_model"], n: int, seed: int) -> Reader:
    """The encoder of a top-k sparse autoencoder with n latents; see `train_sae`."""
    weight, bias, _ = train_sae(x, n, seed)
    return weight, bias


METHODS: dict[str, Method] = {"kmeans": kmeans, "gmm": gmm, "topk_sae": topk_sae}
"""Name -> function of (spans of length 1, number of categories, seed) that gives the reader."""


def discover(
    activations: Activations, *, method: str = "kmeans", n: int | None = None, site: Site | None = None, among: Sequence[int] = AMONG,
    judge: Judge | None = None, seed: int = 0,
) -> Strategies:  # fmt: skip
    """Categories of spans without labels.

    A random third of the problems is held out; a reader is fitted on the others, and for each number of categories three things are computed, each at most 1:

    - completeness: share of the variance of held-out spans that their categories explain, 1 - sum |x - centroid|^2 / sum |x - mean|^2;
    - consistency: adjusted Rand index, over held-out spans, of two readers fitted on either half of the fitting problems; 0 is chance;
    - independence: 1 - mean |cosine| over the pairs of centroids.

    The number with the largest mean of the three is chosen, the smaller of equals. A category without fitting spans (a latent that never wins) is dropped.

    Args:
        activations: of spans, as from `capture_spans`; the index has `problem` and, for titles, `text`.
        method: a key of `METHODS`.
        n: number of categories; None: chosen.
        site: of the activations; may be left out where there is only one.
        among: numbers that are tried where `n` is None, as far as there are 10 fitting spans for each category.
        judge: asked, where given, for titles and for a second opinion on consistency (see `judging.judged`); never needed.
        seed: of the split, the halves and the starts.

    Raises:
        UnknownName: no such method.
        InvalidInput: fewer than two problems in the fitting or the held-out part, too few spans, or an `n` below 2 or above the number of fitting spans.
        NonFinite: NaN or Inf in the activations.
    """
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    site, values = values_at(activations, site)
    order = np.lexsort([*values.T[: min(8, values.shape[1])]])  # the order of the rows must not matter
    values, index = values[order], activations.index.iloc[order].reset_index(drop=True)
    held = _held_out(index, seed)
    fit_problems = index["problem"].to_numpy(str)[~held]
    mean = values[~held].mean(0)
    fit, out = normalised(values[~held], mean), normalised(values[held], mean)
    tried = _numbers(n, among, len(fit), len(np.unique(fit, axis=0)))
    half = halves_of(fit_problems, seed)
    if min(half.sum(), (~half).sum()) <= max(tried):
        raise InvalidInput(f"Half of the fitting problems have {min(half.sum(), (~half).sum())} spans, too few for {max(tried)} categories. Give more rollouts.")
    rows, readers = [], {}
    for count in tried:
        readers[count] = _used(METHODS[method](fit, count, seed), fit)
        pair = [read(METHODS[method](fit[part], count, seed), out) for part in (half, ~half)]
        rows.append({"n": count, **_scores(readers[count], fit, out, pair)})
    scores = pd.DataFrame(rows).assign(n_held_out=len(out), n_problems=index["problem"][held].nunique())
    scores["chosen"] = scores.index == scores["score"].idxmax()
    weight, bias = readers[int(scores.loc[scores["chosen"], "n"].iloc[0])]
    found, found_out = read((weight, bias), fit), read((weight, bias), out)
    sizes = np.bincount(found, minlength=len(weight))
    by_size = np.argsort(-sizes, kind="stable")
    names = [f"category-{i}" for i in range(len(weight))]
    centroids = torch.from_numpy(np.stack([values[~held][found == c].mean(0) - mean for c in by_size]))
    texts = index["text"].astype(str).to_numpy(object) if "text" in index else None
    typical = [_typical(fit, found == c, None if texts is None else texts[~held]) for c in by_size]
    table = pd.DataFrame({"category": names, "n": sizes[by_size], "n_held_out": np.bincount(found_out, minlength=len(weight))[by_size],
                          "title": titles(typical, [] if texts is None else texts[~held].tolist()), "typical": typical})  # fmt: skip
    info = {"seed": seed, "n_asked": n, "n_fit": len(fit), "n_fit_problems": len(set(fit_problems)), "held_out": sorted(index["problem"][held].astype(str).unique())}
    reader = [torch.from_numpy(np.ascontiguousarray(part)) for part in (weight[by_size], bias[by_size], mean)]
    made = Strategies(method, site, reader[0], reader[1], reader[2], table, scores, centroids_of(site, centroids, names, sizes[by_size].tolist(), method), info)
    return made if judge is None else judged(made, Activations({site: torch.from_numpy(values[held])}, index[held].reset_index(drop=True)), judge, seed=seed)


def read(reader: Reader, x: Float[np.ndarray, "span d_model"]) -> Int[np.ndarray, "span"]:
    """The number of each span's category."""
    return np.asarray((x @ reader[0].T + reader[1]).argmax(1))


def _held_out(index: pd.DataFrame, seed: int) -> np.ndarray:
    """The spans of a random third of the problems."""
    if "problem" not in index:
        raise InvalidInput("The index has no column `problem`: scores hold whole problems out. Capture spans of rollouts.")
    problem = index["problem"].to_numpy(str)
    names, number = np.unique(problem, return_inverse=True)
    if len(names) < 6:
        raise InvalidInput(f"The spans are of {len(names)} problem{'s' * (len(names) != 1)}: at least 6 are needed, a third of them held out. Sample more problems.")
    return np.asarray((np.random.default_rng(seed).permutation(len(names)) < len(names) // 3)[number])


def _numbers(n: int | None, among: Sequence[int], n_fit: int, n_different: int) -> list[int]:
    """The numbers of categories to try."""
    if n is not None:
        if not 2 <= n <= n_different:
            raise InvalidInput(f"n={n} categories of {n_fit} fitting spans ({n_different} of them different): ask for 2 to {n_different}.")
        return [int(n)]
    tried = [int(k) for k in sorted(set(among)) if 2 <= k <= min(n_fit // PER_CATEGORY, n_different)]
    if not tried:
        raise InvalidInput(f"{n_fit} fitting spans ({n_different} of them different) are too few for any of {list(among)} categories at {PER_CATEGORY} each. Give more rollouts.")
    return tried


def _used(reader: Reader, fit: np.ndarray) -> Reader:
    """Without categories that no fitting span belongs to."""
    some = np.unique(read(reader, fit))
    return reader[0][some], reader[1][some]


def _scores(reader: Reader, fit: np.ndarray, out: np.ndarray, halves: list[np.ndarray]) -> dict[str, float]:
    from sklearn.metrics import adjusted_rand_score

    found = read(reader, fit)
    centroids = np.stack([fit[found == c].mean(0) for c in range(len(reader[0]))])
    left = ((out - centroids[read(reader, out)]) ** 2).sum() / max(((out - out.mean(0)) ** 2).sum(), np.finfo(float).tiny)
    units = normalised(centroids, np.zeros(fit.shape[1]))
    pairs = np.abs(units @ units.T)[np.triu_indices(len(units), 1)]
    three = {"completeness": float(1 - left), "consistency": float(adjusted_rand_score(*halves)), "independence": float(1 - pairs.mean()) if len(pairs) else 0.0}
    return {**three, "score": float(np.mean(list(three.values())))}


def _typical(x: np.ndarray, mine: np.ndarray, texts: np.ndarray | None) -> list[str]:
    """Texts of the spans nearest their centroid, the nearest first, each once."""
    if texts is None:
        return []
    near = np.argsort(-(x[mine] @ x[mine].mean(0)), kind="stable")
    return list(dict.fromkeys(t[:SHOWN] for t in texts[mine][near[:200]]))[:TYPICAL]


def titles(typical: list[list[str]], texts: list[str]) -> list[str]:
    """For each category the words that most of its typical spans have and few spans at all do; else its most typical span."""
    words = Counter(w for t in texts for w in set(t.lower().split()))
    out = []
    for spans in typical:
        mine = Counter(w for t in spans for w in set(t.lower().split()))
        lift = {w: count / len(spans) - words[w] / len(texts) for w, count in mine.items()}
        best = sorted((w for w in lift if lift[w] > 0.4), key=lambda w: (-lift[w], w))[:3]
        out.append((" ".join(best) or (spans[0] if spans else ""))[:SHOWN])
    return out
