"""The architectures that a backbone can stand for, and what each fixes without saying so in its settings."""

from dataclasses import dataclass

from hope_model.errors import ConversionError


@dataclass(frozen=True)
class Architecture:
    """One family member.

    qkv_bias, output_bias: None where the settings decide.
    head_width: None where it is the width by head, unless the settings decide.
    gguf_permuted: whether llama.cpp's files hold rows of queries and keys in another order.
    """

    hugging_face: str
    gguf: str
    qkv_bias: bool | None = None
    output_bias: bool | None = None
    mlp_bias: bool | None = False
    qk_norm: bool = False
    tied_head: bool = False
    rope_theta: float = 10_000.0
    head_width: int | None = None
    no_rope_interval: int | None = None
    gguf_permuted: bool = False


ARCHITECTURES = (
    Architecture("LlamaForCausalLM", "llama", mlp_bias=None, gguf_permuted=True),
    Architecture("Qwen2ForCausalLM", "qwen2", qkv_bias=True, output_bias=False),
    Architecture("Qwen3ForCausalLM", "qwen3", qk_norm=True, head_width=128),
    Architecture(
        "SmolLM3ForCausalLM",
        "smollm3",
        mlp_bias=None,
        tied_head=True,
        rope_theta=2_000_000.0,
        no_rope_interval=4,
        gguf_permuted=True,
    ),
)


def find_architecture(name: object, where: str) -> Architecture:
    """By its name in either format; raises ConversionError, with the known names, for another."""
    for known in ARCHITECTURES:
        if name in (known.hugging_face, known.gguf):
            return known
    supported = ", ".join(known.hugging_face for known in ARCHITECTURES)
    raise ConversionError(f"{where}: architecture: expected one of {supported}, found {str(name)[:80]!r}")


def every(interval: int, layers: int) -> tuple[int, ...]:
    """Indices of the last layer of every ``interval`` layers."""
    return tuple(range(interval - 1, layers, interval))
