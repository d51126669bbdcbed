"""A backbone's configuration from Hugging Face's config.json."""

from hope_model.attention.config import BackboneConfig, RopeScaling
from hope_model.config import MAX_SIZE
from hope_model.convert.architectures import Architecture, every, find_architecture
from hope_model.convert.fields import Fields
from hope_model.errors import ConfigError, ConversionError


def backbone_from(config: Fields) -> BackboneConfig:
    """The configuration that ``config`` describes.

    Raises:
        ConversionError: a field is missing or wrong, or asks for something that a backbone cannot do.
    """
    names = config.items("architectures", str)
    if len(names) != 1:
        raise config.refusal("architectures", "one name", names)
    architecture = find_architecture(names[0], "config.json")
    _refuse_what_a_backbone_lacks(config, architecture)
    layers = config.integer("num_hidden_layers")
    if not 1 <= layers <= MAX_SIZE:
        raise config.refusal("num_hidden_layers", "a positive integer", layers)
    width, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    by_head = architecture.head_width or (width // heads if heads else 0)
    bias = config.flag("attention_bias", False)
    theta, scaling = _rope(config, architecture)
    try:
        return BackboneConfig(
            vocab_size=config.integer("vocab_size"),
            width=width,
            layers=layers,
            heads=heads,
            kv_heads=config.integer("num_key_value_heads", heads),
            head_width=config.integer("head_dim", by_head),
            mlp_width=config.integer("intermediate_size"),
            norm_epsilon=config.number("rms_norm_eps", 1e-6),
            rope_theta=theta,
            rope_scaling=scaling,
            qkv_bias=bias if architecture.qkv_bias is None else architecture.qkv_bias,
            output_bias=bias if architecture.output_bias is None else architecture.output_bias,
            mlp_bias=config.flag("mlp_bias", False) if architecture.mlp_bias is None else False,
            qk_norm=architecture.qk_norm,
            tied_head=config.flag("tie_word_embeddings", architecture.tied_head),
            no_rope_layers=_no_rope_layers(config, architecture, layers),
        )
    except ConfigError as error:
        raise ConversionError(f"config.json: {error}") from error


def _refuse_what_a_backbone_lacks(config: Fields, architecture: Architecture) -> None:
    if "quantization_config" in config:
        raise config.refusal("quantization_config", "weights that are not quantised", "a method")
    activation = config.text("hidden_act", "silu")
    if activation != "silu":
        raise config.refusal("hidden_act", "silu", activation)
    # Llama itself has no windows and ignores the fields.
    if architecture.hugging_face == "LlamaForCausalLM" or not config.flag("use_sliding_window", False):
        return
    if "sliding_window" in config and _windowed_layers(config, architecture):
        raise config.refusal("use_sliding_window", "full attention in every layer", True)


def _windowed_layers(config: Fields, architecture: Architecture) -> bool:
    if "layer_types" in config:
        return "sliding_attention" in config.items("layer_types", str)
    if architecture.no_rope_interval is not None:
        return bool(_no_rope_layers(config, architecture, config.integer("num_hidden_layers")))
    return config.integer("max_window_layers", 28) < config.integer("num_hidden_layers")


def _no_rope_layers(config: Fields, architecture: Architecture, layers: int) -> tuple[int, ...]:
    if architecture.no_rope_interval is None:
        return ()
    if "no_rope_layers" not in config:
        interval = config.integer("no_rope_layer_interval", architecture.no_rope_interval)
        if interval < 1:
            raise config.refusal("no_rope_layer_interval", "a positive integer", interval)
        return every(interval, layers)
    uses_rope = config.items("no_rope_layers", int)
    if len(uses_rope) < layers or set(uses_rope) - {0, 1}:
        raise config.refusal("no_rope_layers", f"{layers} times 0 or 1", uses_rope)
    return tuple(layer for layer in range(layers) if not uses_rope[layer])


def _rope(config: Fields, architecture: Architecture) -> tuple[float, RopeScaling | None]:
    """Base and scaling; both fields exist in the wild, and what the older one holds wins, as upstream."""
    rope = config.group("rope_scaling" if config.get("rope_scaling") else "rope_parameters")
    theta = rope.number("rope_theta", config.number("rope_theta", architecture.rope_theta))
    for fields in (rope, config):
        if fields.number("partial_rotary_factor", 1.0) != 1.0:
            raise fields.refusal("partial_rotary_factor", "1", fields.get("partial_rotary_factor"))
    kind = rope.text("rope_type", rope.text("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise rope.refusal("rope_type", "default or llama3", kind)
    context = rope.integer("original_max_position_embeddings")
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    try:
        return theta, RopeScaling(rope.number("factor"), low, high, context)
    except ConfigError as error:
        raise ConversionError(f"config.json: rope_scaling: {error}") from error
