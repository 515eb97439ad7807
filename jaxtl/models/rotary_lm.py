"""Causal language models with rotary positions."""

from jaxtl.models import causal_lm
from jaxtl.models.layers.rotary import RotaryPositions


class RotaryLM(causal_lm.CausalLM):
    """What decoders with rotary positions share.

    Attributes:
      hidden: width inside the feed-forward layers.
      rope_theta: base of the rotary wavelengths.
      rope_pairs: rotate neighboring features (llama2.c) in place of halves.
      rope_share: share of each head's features that turn.
      rope_factor: rotary frequencies are divided by it.
      rope_bands, rope_ramp: frequencies that `rope_factor` applies to, see
        `RotaryPositions`.
      rope_short, rope_long, rope_context: divisors of each frequency for texts of at
        most, and of more than, `rope_context` tokens; () for none.
      rope_scale: factor of rotated queries and keys.
    """

    hidden: int = 11_008
    rope_theta: float = 10_000.0
    rope_pairs: bool = False
    rope_share: float = 1.0
    rope_factor: float = 1.0
    rope_bands: tuple[float, ...] = ()
    rope_ramp: tuple[float, ...] = ()
    rope_short: tuple[float, ...] = ()
    rope_long: tuple[float, ...] = ()
    rope_context: int = 0
    rope_scale: float = 1.0

    def rope(self) -> RotaryPositions:
        """The constants of the rotary positions."""
        return RotaryPositions(
            theta=self.rope_theta,
            pairs=self.rope_pairs,
            share=self.rope_share,
            factor=self.rope_factor,
            bands=tuple(self.rope_bands),
            ramp=tuple(self.rope_ramp),
            short=tuple(self.rope_short),
            long=tuple(self.rope_long),
            context=self.rope_context,
            scale=self.rope_scale,
        )
