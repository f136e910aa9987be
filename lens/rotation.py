"""How positions rotate queries and keys, from the fields of a configuration old and new."""

from probattn.lens.settings import Settings
from probattn.lens.transformer import FrequencyDivisors, Llama3Scaling

SCALINGS = ("default", "llama3", "divisors")


def rotation_of(
    settings: Settings, head_size: int, base: str, fraction: str, usual: float
) -> dict[str, object]:
    """The fields `rotary`, `rotary_base` and `rotary_scaling` of a Configuration.

    Args:
        settings: of the model. Newer ones have all in `rope_parameters`, older ones have the
            scaling in `rope_scaling` and the rest in fields of their own.
        head_size: number of components of a head.
        base, fraction: older names of the base and of the rotated share of a head's components.
        usual: the share if none is given.

    Raises: InputError for other kinds of scaling, and an odd number of rotated components.
    """
    newer = settings.mapping("rope_parameters")
    share = newer.number("partial_rotary_factor", settings.number(fraction, usual))
    rotary = int(head_size * share)
    if share > 1 or rotary % 2 or not rotary:
        raise settings.refused(
            fraction, f"a share of the {head_size} components of a head, an even number", share
        )
    return {
        "rotary": rotary,
        "rotary_base": newer.number("rope_theta", settings.number(base, 10000.0)),
        "rotary_scaling": _scaling(newer if newer.fields else settings.mapping("rope_scaling")),
    }


def _scaling(fields: Settings) -> Llama3Scaling | FrequencyDivisors | None:
    kind = fields.get("rope_type", fields.get("type", "default"))  # the second is the older name
    if kind not in SCALINGS:
        raise fields.refused("rope_type", "default or llama3, the ones that are supported", kind)
    if kind == "default":
        return None
    if kind == "divisors":  # from a GGUF file
        return FrequencyDivisors(tuple(fields.get("divisors")))
    return Llama3Scaling(
        factor=fields.number("factor"),
        low=fields.number("low_freq_factor"),
        high=fields.number("high_freq_factor"),
        original_context=fields.integer("original_max_position_embeddings"),
    )
