"""Recipe: everything that makes an organism, in one frozen and validated dataclass. Another organism is another recipe."""

from dataclasses import dataclass, field
from math import isclose

from latentreason.errors import InvalidInput
from latentreason.organisms.corpus import Corpus
from latentreason.tasks import chain


@dataclass(frozen=True)
class Size:
    """Shape of the Llama model. Two key-value heads keep the cache, and so CPU decoding, small."""

    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int = 2
    d_mlp: int = 384
    context: int = 160
    init_std: float = 0.06


@dataclass(frozen=True)
class Pretrain:
    """AdamW on authors' traces; the first `curriculum` share of the steps is error-free and grows from one operation."""

    steps: int = 1600
    batch: int = 128
    lr: float = 3e-3
    warmup: int = 50
    curriculum: float = 0.25
    weight_decay: float = 0.05


@dataclass(frozen=True)
class RL:
    """GRPO through trl: `prompts` x `group` rollouts a step at temperature 1, `updates` optimizer steps on each."""

    steps: int = 30
    prompts: int = 32
    group: int = 16
    lr: float = 3e-4
    updates: int = 2
    clip: float = 0.2
    max_new_tokens: int = 96


@dataclass(frozen=True)
class Recipe:
    """One organism. `truth` is what the instrument must say of it, None where that is what we want to learn."""

    name: str
    truth: str | None
    corpus: Corpus
    size: Size = field(default_factory=Size)
    pretrain: Pretrain = field(default_factory=Pretrain)
    rl: RL = field(default_factory=RL)

    def __post_init__(self) -> None:
        """Raises:
        InvalidInput: a mixture that does not sum to 1, a probability outside [0, 1], or too few step letters.
        """
        for cue, mixture in self.corpus.formats.items():
            if len(mixture) != len(chain.FORMATS) or not isclose(sum(mixture), 1.0, abs_tol=1e-9):
                raise InvalidInput(f"Format mixture {mixture} of cue {cue!r} must have {len(chain.FORMATS)} parts that sum to 1.")
        missing = {"", *chain.CUES} - set(self.corpus.formats)
        if missing or set(chain.FORMATS[1:]) - set(self.corpus.habits):
            raise InvalidInput(f"Give a mixture for each cue ({sorted(missing)} missing) and habits for each of {chain.FORMATS[1:]}.")
        numbers = [p for h in self.corpus.habits.values() for p in vars(h).values()]
        numbers += [v for k, v in vars(self.corpus).items() if k.startswith(("right_", "p_"))]
        numbers += [*(p for mixture in self.corpus.formats.values() for p in mixture), self.corpus.p_hard + self.corpus.p_rare]
        if len(self.corpus.separators) != len(chain.SEPARATORS) or not isclose(sum(self.corpus.separators), 1.0, abs_tol=1e-9) or min(self.corpus.separators) < 0:
            raise InvalidInput(f"Separators {self.corpus.separators} must be {len(chain.SEPARATORS)} probabilities that sum to 1.")
        if not all(0.0 <= p <= 1.0 for p in numbers):
            raise InvalidInput(f"Every probability of recipe {self.name!r} must lie in [0, 1].")
        if not 1 <= self.corpus.min_ops <= self.corpus.max_ops <= len(chain.LETTERS):
            raise InvalidInput(f"Need 1 <= min_ops <= max_ops <= {len(chain.LETTERS)}, the number of step letters.")


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
