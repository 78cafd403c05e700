"""The reference's algorithms, against the same written out over full forward passes."""

import pytest
import torch

from latentreason.activations.sites import Site
from latentreason.errors import InvalidInput
from latentreason.hybrid.decode import Arms, Hybrid
from latentreason.hybrid.presets import among, categorised, published_without, steer_best, venhoff_g1, venhoff_g3
from latentreason.hybrid.steering import Category, random_category
from latentreason.models.blocks import blocks, hidden_of
from latentreason.models.decoding import Batch
from latentreason.models.pair import ModelPair
from latentreason.routing.controls import always
from latentreason.sampling.local import Sampling, sample
from latentreason.sampling.noise import gumbel
from latentreason.tasks.chain import load
from latentreason.vectors.optimised import fit_optimised
from latentreason.vectors.steering_vector import SteeringVector, VectorSet

PROMPTS = [[1, 9, 40, 17, 33, 5, 60, 28], [1, 12], [1, 7, 21, 8, 50]]
GREEDY = Batch(PROMPTS, torch.arange(3), torch.arange(3), 0.0, 1.0, 8, gumbel)
STRENGTHS, WINDOWS = (0.5, 1.0, 2.0), (None, 1, 3)


def noise(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


VECTORS = VectorSet(tuple(SteeringVector.of(Site(1), 3 * row, label, 5) for label, row in zip("ab", noise(2, 32, seed=1), strict=True)))
CATEGORY = Category("rl:2", ("a", "b"), noise(2, 32, seed=2), torch.zeros(2))


def run(lm, ids, layer=None, added=None, window=1):
    """Logits of the last position of a full forward, with a vector added to the output of a block at the last positions; and the residual stream after block 2."""
    kept = {}

    def hook(number):
        def act(module, args, output):
            hidden = hidden_of(output).clone()
            if number == layer:
                hidden[:, -window:] += added
            kept[number] = hidden[0, -1]
            return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

        return act

    hooks = [block.register_forward_hook(hook(i)) for i, block in enumerate(blocks(lm))]
    with torch.inference_mode():
        logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    for each in hooks:
        each.remove()
    return logits, kept[2]


def first_generation(pair, prompt, n):
    said = []
    while len(said) < n and 2 not in said:
        ids = prompt + said
        base, (rl, state) = int(run(pair.base, ids)[0].argmax()), run(pair.rl, ids)
        token = base
        if base != int(rl.argmax()):
            vector = VECTORS["ab"[int((CATEGORY.weights @ state).argmax())], Site(1)].vector
            windows = [max(1, len(said) if w is None else min(w, len(said))) for w in WINDOWS]
            candidates = [int(run(pair.base, ids, 1, s * vector, w)[0].argmax()) for w in windows for s in STRENGTHS]
            token = max(candidates, key=lambda c: float(rl[c]))
        said.append(token)
    return said


def test_the_first_generation_is_that_of_full_forward_passes(pair):
    decoded = venhoff_g1(pair, VECTORS, CATEGORY, strengths=STRENGTHS, windows=WINDOWS).decode(GREEDY)
    said = [row[:n].tolist() for row, n in zip(decoded.records["token_ids"], decoded.length, strict=True)]
    assert said == [first_generation(pair, prompt, 8) for prompt in PROMPTS]
    plain = pair.base.decode(GREEDY)
    assert said != [row[:n].tolist() for row, n in zip(plain.records["token_ids"], plain.length, strict=True)]


def test_a_grid_must_hold_something():
    for grid in ({"strengths": ()}, {"windows": ()}, {"windows": (0,)}):
        with pytest.raises(InvalidInput, match="must not be empty"):
            steer_best(VECTORS, CATEGORY, **grid)


@pytest.mark.slow
def test_the_last_generation_and_the_controls_run_on_the_built_in_pair():
    pair = ModelPair.from_organism("activation")
    problems = load(split="fit", limit=30, seed=0)
    rollouts = sample(Hybrid(pair, always()), problems, Sampling(n=4), progress=False)
    category = Category("rl:2", ("a", "b"), noise(2, pair.rl.d_model, seed=3), torch.zeros(2))
    at = categorised(pair, rollouts, category)
    assert len(at) == rollouts.table["n_changed"].sum() and set(at["strategy"]) == {"a", "b"}
    fitted = fit_optimised(pair.base, rollouts, at, layer=2, strength="learned", seeds=(0,), epochs=4)
    hybrid = venhoff_g3(pair, fitted, category)
    assert fitted.table["report"].iloc[1] < 0.7 * fitted.table["report"].iloc[0]  # after a dozen steps: vectors have the size of the activations
    first = venhoff_g1(pair, fitted.vectors, category, strengths=(300.0,), windows=(1,))
    controls = published_without(first, fitted.vectors, lambda v: steer_best(v, category, strengths=(300.0,), windows=(1,)))
    arms = Arms([hybrid, first, *controls.values(), Hybrid(pair, always(), name="rl")])
    table = sample(arms, problems[:6], Sampling(n=1, temperature=0.0), progress=False).table
    tokens = {arm: [list(ids) for ids in part["token_ids"]] for arm, part in table.groupby("arm")}
    assert tokens["venhoff_g1: swap"] == tokens["rl"]  # at greedy, by identity
    assert tokens["venhoff_g1: random vectors"] != tokens["venhoff_g1"]
    with pytest.raises(InvalidInput, match="does not know 'c'; it knows a, b"):
        among(category, ("a", "c"))
    count = at["strategy"].value_counts()
    often = categorised(pair, rollouts, category, at_least=int(count.max()))
    assert set(often["strategy"]) == set(count.index[count == count.max()]) and len(often) < len(at)
    with pytest.raises(InvalidInput, match=f"No category has {count.max() + 1} disagreements; .* has {count.max()}: give more rollouts"):
        categorised(pair, rollouts, category, at_least=int(count.max()) + 1)
    with pytest.raises(InvalidInput, match="at random reads nothing"):
        categorised(pair, rollouts, random_category(("a", "b")))
