"""A classifier of sequences on the mean of an encoder's outputs, as sentence encoders pool them.

Imported only when it is made, because it needs torch. Shapes: ``B`` sequences, ``T`` tokens, ``H`` hidden values, ``C``
classes.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


class MeanPooled(nn.Module):
    """An encoder of transformers, and a linear layer on the mean of its last hidden states over the tokens, ``[B, H]``.

    The mean leaves out padding (Reimers and Gurevych 2019, section 3, https://arxiv.org/abs/1908.10084). The encoder
    has the name that it has in the classifiers of transformers, such as ``bert``, and the layer is ``classifier``; both
    the dropout before the layer and its initial weights are as there.

    Args:
        transformers: The package.
        encoder: The encoder, without a head.
    """

    def __init__(self, transformers: ModuleType, encoder: Any) -> None:
        super().__init__()
        config = encoder.config
        self.config = config
        self._name = encoder.base_model_prefix
        self._output = transformers.modeling_outputs.SequenceClassifierOutput
        self._loss = transformers.loss.loss_utils.LOSS_MAPPING["ForSequenceClassification"]
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # its weights would be trained for nothing
        setattr(self, self._name, encoder)
        dropouts = (getattr(config, name, None) for name in ("classifier_dropout", "hidden_dropout_prob", "dropout"))
        self.dropout = nn.Dropout(next((value for value in dropouts if value is not None), 0.0))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels, dtype=encoder.dtype)
        nn.init.normal_(self.classifier.weight, std=getattr(config, "initializer_range", 0.02))
        nn.init.zeros_(self.classifier.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        """Return the logits ``[B, C]``, and the loss if there are labels."""
        encoder = getattr(self, self._name)
        hidden = encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        logits = self.classifier(self.dropout(pooled))
        loss = None if labels is None else self._loss(labels, logits, self.config)
        return self._output(loss=loss, logits=logits)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, as models of transformers have it."""
        return self.classifier.weight.dtype
