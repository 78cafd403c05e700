"""The blocks of a Hugging Face model, whatever its architecture calls them."""

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from latentreason.errors import InvalidInput

if TYPE_CHECKING:
    from latentreason.models.language_model import LM


def decoder(lm: "LM") -> nn.Module:
    """The model without its LM head."""
    module: nn.Module = lm.model.get_decoder()
    return module


def blocks(lm: "LM") -> nn.ModuleList:
    """The blocks in order, whatever the architecture calls them (`layers`, `h`, ...).

    Raises:
        InvalidInput: the decoder holds no list of `lm.n_layers` modules.
    """
    for child in decoder(lm).children():
        if isinstance(child, nn.ModuleList) and len(child) == lm.n_layers:
            return child
    raise InvalidInput(f"No list of {lm.n_layers} blocks in {lm.name!r}; the architecture {type(decoder(lm)).__name__} is not supported.")


def hidden_of(output: Any) -> Tensor:
    """The residual stream that a block returned. Blocks return a tensor in transformers 5, a tuple that starts with it before."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden
