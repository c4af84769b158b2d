"""Text-encoder embeddings of token ids. It knows nothing about the transformer or requests.

The embedding is the next-to-last hidden state of the checkpoint's Qwen3 encoder (diffusers
pipeline_z_image.py, ``_encode_prompt``).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from zimage_models.models.device_memory import upload
from zimage_models.models.ranks import OneRank, Ranks, Verb


class PromptEncoder:
    """Runs a text encoder up to the layer that Z-Image reads (``components.without_unread_layers``)."""

    def __init__(self, text_encoder: PreTrainedModel, *, ranks: Ranks | None = None) -> None:
        """Wrap a text encoder.

        Args:
            text_encoder: whole, or this rank's share of it.
            ranks: the ranks that hold the other shares; None if it is whole.
        """
        self._text_encoder = text_encoder
        self._run_together = (ranks or OneRank()).together(Verb.ENCODE, self._run)

    @torch.inference_mode()
    def encode(self, segments: Sequence[Sequence[int]]) -> list[Tensor]:
        """Embed token sequences in one forward, padded to the longest of them.

        The encoder is causal and padding is on the right, so no sequence sees it and no mask is needed. (A
        mask would also make the host wait for the device, and rule out the fast attention kernels.)

        Returns:
            One (tokens, text width) tensor each, in the encoder's dtype.
        """
        rows = [torch.tensor(segment) for segment in segments]
        ids = upload(pad_sequence(rows, batch_first=True), self._text_encoder.device)
        hidden = self._run_together(self._text_encoder.get_input_embeddings()(ids))
        return [tokens[: len(row)] for tokens, row in zip(hidden, rows, strict=True)]

    def _run(self, embeddings: Tensor) -> Tensor:
        hidden: Tensor = self._text_encoder(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        return hidden
