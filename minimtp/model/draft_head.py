"""A draft head that was loaded apart from the model that it drafts for."""

from dataclasses import dataclass
from pathlib import Path

from minimtp.errors import UserError
from minimtp.model.heads import Eagle3Heads, MultiTokenModel
from minimtp.model.transformer import LanguageModel


@dataclass(frozen=True)
class DraftHead:
    """A head, and the file or folder that it was loaded from (`minimtp.load_draft`)."""

    path: Path
    heads: Eagle3Heads

    def attached_to(self, model: LanguageModel) -> MultiTokenModel:
        """Return the model with this head in place of its own heads. Both share their weights.

        Raises UserError if the head was loaded for a model of another size.
        """
        ours, theirs = self.heads.config, model.config
        needed = theirs.hidden_size, theirs.vocabulary_size
        if (ours.hidden_size, ours.vocabulary_size) != needed or (
            max(self.heads.layers) > theirs.num_layers
        ):
            raise UserError(
                f"the draft head {self.path} was loaded for another model: load it with "
                "minimtp.load_draft for this one"
            )
        return MultiTokenModel(model.trunk, self.heads)
