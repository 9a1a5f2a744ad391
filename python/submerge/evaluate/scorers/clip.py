"""Image-text scores by models of the CLIP kind, from a local path or a hub id.

CLIP, PickScore and HPS (in the layout of transformers) are one architecture with different
weights; SigLIP differs in how a logit becomes a score.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from submerge.evaluate.scorers.base import batches, need
from submerge.inference.weights import unmap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from submerge.evaluate.prompts import Prompt
    from submerge.evaluate.scorers.base import Better, Values

__all__ = ["KINDS", "ImageText"]

KINDS = {
    # Hessel et al. 2021, with the factor torchmetrics uses.
    "clip": "cosine x 100, at least 0",
    # Zhai et al. 2023: the sigmoid of the logit.
    "siglip": "probability",
    # Kirstain et al. 2023: the cosine times the learned scale.
    "pickscore": "logit",
    # Wu et al. 2023.
    "hps": "logit",
}


@dataclass(slots=True)
class ImageText:
    """How well an image fits its prompt, by a model of the CLIP kind.

    Attributes:
        name: a key of `KINDS`; decides the formula.
        path: a local folder, or a hub id.
    """

    name: str
    path: str
    better: Better = "higher"
    _loaded: Any = field(default=None, repr=False)

    @property
    def unit(self) -> str:
        """What the score is measured in."""
        return KINDS[self.name]

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> Values:
        """Return the score of each image, NaN for a prompt without words.

        Prompts longer than the model's context are cut, as everywhere these scores are used.
        """
        places = [i for i, prompt in enumerate(prompts) if prompt.text.strip()]
        values = np.full(len(images), np.nan)
        for some in batches(places, 8):
            pictures = [images[i].convert("RGB") for i in some]
            values[list(some)] = self._pairs(pictures, [prompts[i].text for i in some])
        return values

    def _pairs(self, images: list[Image], texts: list[str]) -> Values:
        torch = need("torch", "submerge[evaluate]")
        model, processor = self._model()
        inputs = processor(
            text=texts,
            images=images,
            return_tensors="pt",
            padding="max_length",
            truncation=True,
            max_length=model.config.text_config.max_position_embeddings,
        )
        with torch.inference_mode():
            found = model(**inputs)
        if self.name == "siglip":
            scores = torch.sigmoid(found.logits_per_image.diagonal())
        elif self.name == "clip":
            cosines = (found.image_embeds * found.text_embeds).sum(dim=1)
            scores = 100.0 * cosines.clamp(min=0.0)
        else:
            scores = found.logits_per_image.diagonal()
        values: Values = scores.double().numpy()
        return values

    def _model(self) -> tuple[Any, Any]:
        if self._loaded is None:
            transformers = need("transformers", "submerge[evaluate]")
            model = transformers.AutoModel.from_pretrained(self.path).eval()
            unmap((*model.parameters(), *model.buffers()))
            self._loaded = model, transformers.AutoProcessor.from_pretrained(self.path)
        model, processor = self._loaded
        return model, processor
