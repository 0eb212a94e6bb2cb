"""Settings of text encoders whose code is not part of transformers."""

from transformers import PreTrainedConfig


class OwnCodeConfig(PreTrainedConfig):
    r"""
    Settings of a text encoder whose code is not part of transformers, as they were read: that code has not been loaded.

    Args:
        settings (`dict`, *optional*): The settings, with `auto_map`.
    """

    lacks_code = True

    def __init__(self, settings: dict | None = None):
        super().__init__()
        self.settings = dict(settings or {})

    def to_dict(self) -> dict:
        """Returns the settings as they were read."""
        return {**self.settings, "transformers_version": self.settings.get("transformers_version")}


def lacks_code(text_config: PreTrainedConfig | None) -> bool:
    """Returns whether this is an [`OwnCodeConfig`]; without the package, there is a class of this name for each module that
    transformers loads."""
    return getattr(text_config, "lacks_code", False) is True


__all__ = ["OwnCodeConfig", "lacks_code"]
