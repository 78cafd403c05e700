"""Recipe: everything that makes an organism, in one frozen and validated dataclass. Another organism is another recipe.

A recipe is a base (`corpus`, `size`, `pretrain`) and what is done to it: one stage of GRPO (`rl`), or several `stages`. Organisms with equal
bases share one base model, and those whose first stages are equal share these too. Example::

    replace(ACTIVATION, name="mine", stages=(SFT(expert=EXPERT), RL(reward="majority", clip=math.inf)))
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from inspect import signature
from math import inf, isfinite
from typing import Any, Literal

from latentreason.errors import InvalidInput, unknown_name
from latentreason.organisms.corpus import Corpus, added
from latentreason.organisms.rewards import REWARDS
from latentreason.tasks import chain

TRUTHS = ("timing", "sharpening", "content", "format", "memorisation", "collapse", "degenerate", "undefined")
"""What may be known of an organism by construction: the cause of its gain, or a flag (the last three)."""


@dataclass(frozen=True)
class Size:
    """Shape of the Llama model. Two key-value heads keep the cache, and so CPU decoding, small.

    With `half` the weights are rounded to float16 at the end of each training, so that they ship at half the size without a change.
    """

    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int = 2
    d_mlp: int = 384
    context: int = 160
    init_std: float = 0.06
    half: bool = added(False)

    def __post_init__(self) -> None:
        """Raises InvalidInput for a shape that no model has."""
        if min(self.d_model, self.n_layers, self.n_heads, self.n_kv_heads, self.d_mlp, self.context) < 1 or self.d_model % self.n_heads or self.n_heads % self.n_kv_heads or self.d_model // self.n_heads % 2:
            raise InvalidInput(f"d_model must be a multiple of n_heads, with an even width a head (rotary positions), and n_heads one of n_kv_heads; all at least 1. Found {self}.")

    @property
    def parameters(self) -> int:
        """Number of weights."""
        d, kv = self.d_model, self.d_model // self.n_heads * self.n_kv_heads
        return 2 * len(chain.VOCABULARY) * d + self.n_layers * (2 * d * d + 2 * d * kv + 3 * d * self.d_mlp + 2 * d) + d


@dataclass(frozen=True)
class Pretrain:
    """AdamW on authors' traces; the first `curriculum` share of the steps is error-free and grows from one operation. 0 steps: random weights.

    `prompt_loss`: the problems are learnt too, as web text is, and not their traces alone.
    """

    steps: int = 1600
    batch: int = 128
    lr: float = 3e-3
    warmup: int = 50
    curriculum: float = 0.25
    weight_decay: float = 0.05
    prompt_loss: bool = added(False)

    def __post_init__(self) -> None:
        """Raises InvalidInput for numbers that no training can use."""
        if min(self.steps, self.warmup) < 0 or self.batch < 1 or not (self.lr > 0.0 and isfinite(self.lr) and 0.0 <= self.curriculum <= 1.0 and 0.0 <= self.weight_decay < inf):
            raise InvalidInput(f"Pretraining needs steps and warmup of at least 0, batch of at least 1, a finite lr above 0, curriculum in [0, 1] and weight_decay of at least 0; found {self}.")


@dataclass(frozen=True)
class RL:
    """GRPO through trl: `prompts` x `group` rollouts a step at temperature 1, `updates` optimizer steps on each.

    Attributes:
        clip: of the ratio of new to old probability; infinity for none. With one update a step the ratio is 1 and nothing is clipped.
        reward, reward_args: a key of `rewards.REWARDS`, and numbers for it.
        scale: advantages are divided by the standard deviation of their group, or not.
        beta: weight of the KL penalty against the model that the stage starts from: several stages with a penalty are ProRL's resets
            of reference and optimizer.
        problems: None for the recipe's.
        split: train, or `seen` for the test problems that the corpus holds.
        distinct, skip: train on so many problems, again and again, leaving out the first `skip`; 0 for problems without end.
        by_step: SRL. A prompt goes on with the first steps of an expert's trace, and a completion is one step.
        external: traces of the expert in each group, in place of samples, with RL-PLUS's importance weights and exploration advantage.
        expert: who writes these, for `by_step` and `external`.
        keep: keep the weights of each so many steps, in float16; 0 for none.
        trainable: "bias" trains one vector a block alone, the bias of its MLP's output, which starts at zero; all other weights are frozen.
    """

    steps: int = 30
    prompts: int = 32
    group: int = 16
    lr: float = 3e-4
    updates: int = 2
    clip: float = 0.2
    max_new_tokens: int = 96
    reward: str = added("true")
    reward_args: Mapping[str, float] = field(default_factory=dict, metadata={"added": True})
    scale: Literal["group", "none"] = added("group")
    beta: float = added(0.0)
    problems: chain.Draw | None = added(None)
    split: Literal["train", "seen"] = added("train")
    distinct: int = added(0)
    skip: int = added(0)
    by_step: bool = added(False)
    external: int = added(0)
    expert: Corpus | None = added(None)
    keep: int = added(0)
    trainable: Literal["all", "bias"] = added("all")

    def __post_init__(self) -> None:
        """Raises:
        UnknownName: no such reward, or nothing of that name to train.
        InvalidInput: numbers that no training can use, or settings that contradict each other.
        """
        if self.reward not in REWARDS:
            raise unknown_name("reward", self.reward, REWARDS)
        if self.trainable not in ("all", "bias"):
            raise unknown_name("value of trainable", self.trainable, ("all", "bias"))
        known = [name for name, p in signature(REWARDS[self.reward]).parameters.items() if isinstance(p.default, float)]
        if strange := sorted(set(self.reward_args) - set(known)):
            raise unknown_name(f"argument of the reward {self.reward}", strange[0], known)
        if wrong := [f"{name}={value}" for name, value in self.reward_args.items() if not (isinstance(value, int | float) and isfinite(value) and (name != "p" or 0.0 <= value <= 1.0))]:
            raise InvalidInput(f"The reward {self.reward!r} needs finite numbers, and a probability p in [0, 1]; found {wrong[0]}.")
        for name, value, allowed in (("scale", self.scale, ("group", "none")), ("split", self.split, ("train", "seen"))):
            if value not in allowed:
                raise unknown_name(f"value of {name}", value, allowed)
        if min(self.steps, self.prompts, self.updates, self.max_new_tokens) < 1 or self.group < 2:
            raise InvalidInput(f"steps, prompts, updates and max_new_tokens must be at least 1 and group at least 2 (a lone sample has no advantage); found {self}.")
        if not (self.clip > 0.0 and self.beta >= 0.0 and isfinite(self.beta) and self.lr > 0.0 and isfinite(self.lr) and min(self.distinct, self.skip, self.external, self.keep) >= 0):
            raise InvalidInput(f"clip and lr must be above 0 (clip=inf for none, lr finite), beta, distinct, skip, external and keep at least 0; found {self}.")
        if (self.by_step or self.external > 0) != (self.expert is not None):
            raise InvalidInput("by_step and external traces need an expert, and nothing else does: give expert=Corpus(...).")
        if self.by_step != (self.reward == "step_similarity"):
            raise InvalidInput("The reward step_similarity compares one step with the expert's: use it with by_step=True, and no other reward there.")
        if self.external and (self.scale != "none" or isfinite(self.clip) or self.external >= self.group or self.reward != "true" or self.updates != 1):
            raise InvalidInput(f"External traces (RL-PLUS) go with scale='none', clip=inf, the reward true, updates=1 and fewer than group={self.group} of them.")


@dataclass(frozen=True)
class SFT:
    """Imitation through trl: `steps` batches of traces of an expert, or of the RL model of another organism (`teacher`).

    Attributes:
        traces: different problems, gone through again and again.
        problems: None for the recipe's.
        only_right: a teacher's wrong traces are left out.
    """

    kind: Literal["sft"] = "sft"
    steps: int = 200
    batch: int = 64
    lr: float = 3e-4
    traces: int = 2048
    expert: Corpus | None = None
    teacher: str = ""
    problems: chain.Draw | None = None
    only_right: bool = True
    keep: int = 0

    def __post_init__(self) -> None:
        """Raises InvalidInput where there is not one source of traces, or a number is below 1."""
        if (self.expert is None) == (not self.teacher):
            raise InvalidInput("SFT imitates one source: give expert=Corpus(...), or teacher= the name of an organism.")
        if min(self.steps, self.batch, self.traces) < 1 or not (self.lr > 0.0 and isfinite(self.lr)) or self.keep < 0:
            raise InvalidInput(f"steps, batch and traces of SFT must be at least 1, lr above 0 and finite, and keep at least 0; found {self}.")


Stage = RL | SFT


@dataclass(frozen=True)
class Recipe:
    """One organism. `truth` is what the instrument must say of it, None where that is what we want to learn.

    Attributes:
        rl: the one stage, where there are no `stages`.
        stages: what is done to the base, in this order; each goes on from the model of the one before.
        problems: what the organism is trained and judged on, unless a stage says otherwise.
    """

    name: str
    truth: str | None
    corpus: Corpus
    size: Size = field(default_factory=Size)
    pretrain: Pretrain = field(default_factory=Pretrain)
    rl: RL = field(default_factory=RL)
    stages: tuple[RL | SFT, ...] = added(())
    problems: chain.Draw = added(chain.Draw())

    def __post_init__(self) -> None:
        """Raises:
        InvalidInput: a truth that is none, prompts and completions longer than the model's context, or problems with operations that nobody shows the model.
        """
        if self.truth is not None and self.truth not in TRUTHS:
            raise unknown_name("truth", self.truth, TRUTHS)
        shown = chain.drawable(self.corpus.problems)
        for stage in self.training:
            shown |= chain.drawable(stage.expert.problems) if stage.expert is not None else set()
            self._known(shown, stage.problems or self.problems, "trained")
            longest = max(how.max_ops for how in (self.corpus.problems, self.problems, stage.problems or self.problems))
            new = stage.max_new_tokens if isinstance(stage, RL) else 0
            if (needed := 7 + 2 * longest + new) > self.size.context:
                raise InvalidInput(f"Recipe {self.name!r} needs {needed} positions ({longest} operations and {new} new tokens), its context has {self.size.context}. Raise size.context.")
            if isinstance(stage, RL) and stage.split == "seen" and not self.corpus.n_seen:
                raise InvalidInput(f"Recipe {self.name!r} trains on seen problems, but its corpus has none. Set corpus.n_seen and p_seen.")

        self._known(shown, self.problems, "judged")

    def _known(self, shown: set[str], how: chain.Draw, what: str) -> None:
        """Raises InvalidInput for operations that neither corpus nor expert shows, unless `must` asks for them by name, as of a new skill."""
        teaches = any(isinstance(stage, SFT) and stage.teacher for stage in self.training)
        if (strange := sorted(chain.drawable(how) - shown - set(how.must))) and not teaches:
            raise InvalidInput(
                f"Recipe {self.name!r} is {what} on problems with {', '.join(strange)}, which neither its corpus nor an expert ever names. "
                "Give problems=corpus.problems (in TOML the same operators, p_hard and p_rare under [problems]), or name a new skill in problems.must."
            )

    @property
    def training(self) -> tuple[Stage, ...]:
        """What is done to the base."""
        return self.stages or (self.rl,)


def config_of(value: Any) -> Any:
    """A recipe, or a part of it, as plain data. Fields that are younger than the shipped organisms are left out at their default, so that a recipe keeps its hash."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: config_of(getattr(value, f.name)) for f in fields(value)
            if not ("added" in f.metadata and getattr(value, f.name) == (f.default_factory() if callable(f.default_factory) else f.default))
            and not (f.name == "rl" and isinstance(value, Recipe) and value.stages)
        }  # fmt: skip
    if isinstance(value, Mapping):
        return {key: config_of(each) for key, each in value.items()}
    return [config_of(each) for each in value] if isinstance(value, tuple | list) else value


@dataclass(frozen=True)
class AdapterRecipe:
    """An organism whose base is a pretrained model that we do not ship, and whose RL model is a LoRA adapter on it.

    `style` is the prompt of the task, of `prompts` x `group` rollouts an update at temperature 1; nobody knows the cause of its gain, so it has no truth.
    """

    name: str
    base: str
    task: str
    style: str
    rank: int = 16
    alpha: int = 32
    lr: float = 3e-4
    steps: int = 60
    prompts: int = 8
    group: int = 8
    max_new_tokens: int = 48
