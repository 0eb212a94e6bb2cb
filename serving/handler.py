"""Handler of Hugging Face Inference Endpoints, written by unisrec. An endpoint calls it with the folder of this file.

    {"inputs": ["1024", {"text": "label maker tape"}], "parameters": {"top_k": 5}}

gives a list of `item_id`, `text` and `score`, best first; a list of histories gives a list of such lists.
"""

try:
    from unisrec.serving.endpoint import EndpointHandler
except ModuleNotFoundError:  # transformers, torch and polars are enough for the code in this folder
    from transformers import pipeline

    class EndpointHandler:
        """Answers requests without the package: recommendations only."""

        def __init__(self, path: str = "."):
            self.recommend = pipeline("sequential-recommendation", model=path, trust_remote_code=True)

        def __call__(self, data: dict) -> list:
            """Returns the items for the histories in `data`."""
            if unknown := data.keys() - {"inputs", "parameters"}:
                raise ValueError(f"unknown field {min(unknown)!r}; expected inputs, parameters")
            return self.recommend(data["inputs"], **(data.get("parameters") or {}))


__all__ = ["EndpointHandler"]
