"""Entry point of lmms-eval (group `lmms_eval.models`): which classes stand behind `--model unimoe`.

lmms-eval reads this on every start, whatever is measured. It stands outside of the package because `import unimoe`
registers with transformers' Auto classes, for which torch and transformers are imported; here nothing is.
"""

from typing import Any


def manifests() -> Any:
    """Return the `ModelManifest` of `unimoe`: a class for tasks as chat messages, and one for `--force_simple`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="unimoe",
        chat_class_path="unimoe.integrations.lmms_eval_chat.UniMoEChat",
        simple_class_path="unimoe.integrations.lmms_eval_simple.UniMoESimple",
    )


__all__ = ["manifests"]
